"""Tests for those who write loops: derivatives against steps, backends against each other, systems against references.

Nothing here is imported by `import ostinato`. The suite of loop programs is in `ostinato.testing.conformance`.
"""

from ostinato.errors import BackendMismatchError, GradientMismatchError, MissingPackageError
from ostinato.testing.backends import compare_backends
from ostinato.testing.gradients import verify_grad

__all__ = [
    "BackendMismatchError",
    "GradientMismatchError",
    "MissingPackageError",
    "compare_backends",
    "verify_grad",
]
