"""From Graphs to loop nests: what a backend sees are scalars, loads, stores and counted loops."""
