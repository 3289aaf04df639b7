"""The programs, by what they are about. Importing this package fills `PROGRAMS`."""

from ostinato.testing.conformance.program import PROGRAMS
from ostinato.testing.conformance.programs import cuts, ends, models, nested, states, steps

# In the order in which one reads them; imports are in that of the alphabet.
_TOPICS = [module.TOPIC for module in (states, nested, ends, cuts, steps, models)]
_ordered = sorted(PROGRAMS.items(), key=lambda item: _TOPICS.index(item[1].topic))
PROGRAMS.clear()
PROGRAMS.update(_ordered)

__all__ = ["PROGRAMS"]
