"""`theano.version`: which Theano the layer stands in for, its last release.

`version`, which is also `theano.__version__`, carries a mark, so that a log shows which of the two ran.
Programs that compare numbers take `short_version`, as they always did, and get three plain numbers.
"""

short_version = "1.0.5"
version = full_version = f"{short_version}+ostinato"

__all__ = ["full_version", "short_version", "version"]
