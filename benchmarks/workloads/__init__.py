"""The workloads by family, one file each; whoever imports this has all of them in the registry."""

from workloads import arrays, cells, scalar, statespace

__all__ = ["arrays", "cells", "scalar", "statespace"]
