"""Studies of many runs, each in a folder of its own, for `fedmore sim run`."""
