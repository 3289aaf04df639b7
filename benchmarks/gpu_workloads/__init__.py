"""The tasks by family, one file each; whoever imports this has the rows of all in the registry."""

from gpu_workloads import lanes, linear, networks

__all__ = ["lanes", "linear", "networks"]
