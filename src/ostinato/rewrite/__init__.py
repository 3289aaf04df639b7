"""Rewrites: graph in, equivalent graph out. One pass per file; the order stands in `pipeline`."""
