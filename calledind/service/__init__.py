"""The composition root: the only package that knows all the others; `daemon` is where to begin."""
