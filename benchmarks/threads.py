"""One thread for everything: to be asked for before NumPy or any of the systems is imported."""

from __future__ import annotations

import os
import random


def use_one() -> None:
    """Pools of threads are as large as they find the machine, or as these variables say; so both are set."""
    pools = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    os.environ.update(dict.fromkeys(pools, "1"))
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})
