"""`python -m ostinato`: the command line of `cli.py`."""

import sys

from ostinato.cli import main

if __name__ == "__main__":
    sys.exit(main())
