"""Questions that many runs answer, each in a folder of its own; `fedmore sim run` runs them."""
