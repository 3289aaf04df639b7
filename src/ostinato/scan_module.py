"""`scan_module`: the names of `ostinato.scan` where Theano had them."""

from ostinato.scan import foldl, foldr, map, reduce, scan, scan_checkpoints, until

__all__ = ["foldl", "foldr", "map", "reduce", "scan", "scan_checkpoints", "until"]
