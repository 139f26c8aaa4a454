"""`fedmore bench`: what the kernels and the engine reach, against named opponents."""
