"""The conformance suite: loop programs with independent references, for Ostinato and for other libraries.

`PROGRAMS` has them by name. `run_suite` asks systems for values and derivatives and judges the answers; the command
line `ostinato conformance` prints the table of it. References need mpmath.
"""

from ostinato.testing.conformance.cells import Answer, Cell, System, judge
from ostinato.testing.conformance.ostinato_ import OstinatoSystem, cost, derivative
from ostinato.testing.conformance.peer import PEERS, PeerSystem
from ostinato.testing.conformance.program import QUANTITIES, Built, Program, program
from ostinato.testing.conformance.programs import PROGRAMS
from ostinato.testing.conformance.reference import expected_along, expected_gradient, expected_outputs
from ostinato.testing.conformance.runner import load, run_suite, save, select
from ostinato.testing.conformance.table import markdown_table, text_table

__all__ = [
    "PEERS",
    "PROGRAMS",
    "QUANTITIES",
    "Answer",
    "Built",
    "Cell",
    "OstinatoSystem",
    "PeerSystem",
    "Program",
    "System",
    "cost",
    "derivative",
    "expected_along",
    "expected_gradient",
    "expected_outputs",
    "judge",
    "load",
    "markdown_table",
    "program",
    "run_suite",
    "save",
    "select",
    "text_table",
]
