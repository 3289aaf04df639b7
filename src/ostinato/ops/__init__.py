"""The ops: one family per file, each op declared once. Importing this package fills the registry `OPS`."""

from ostinato.ops import (
    composite,
    contraction,
    control,
    creation,
    elementwise,
    indexing,
    leaf,
    linalg,
    logspace,
    loop,
    movement,
    random,
    reduce,
    sorting,
)
from ostinato.ops.op import OPS, Op, Sample, register

__all__ = [
    "OPS",
    "Op",
    "Sample",
    "composite",
    "contraction",
    "control",
    "creation",
    "elementwise",
    "indexing",
    "leaf",
    "linalg",
    "logspace",
    "loop",
    "movement",
    "random",
    "reduce",
    "register",
    "sorting",
]
