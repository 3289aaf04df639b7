"""Say which GPU functions can run on, or why there is none; the exit code is 1 then."""

import sys

from ostinato.device import why_unusable

problem = why_unusable()
if problem:
    sys.exit(
        f"make test-gpu: no GPU can be tested: {problem}. `make test` runs the same tests in Triton's interpreter."
    )

import torch  # noqa: E402

print(f"testing on {torch.cuda.get_device_name()}, torch {torch.__version__}")
