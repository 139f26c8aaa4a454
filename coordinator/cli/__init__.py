"""The command line `coordinator`."""
