"""Layers that let programs written for other libraries run on Ostinato. One package each; none is loaded unasked."""
