"""The command line `client`."""
