"""`fedmore bench`: measures the kernels and the engine against named opponents."""
