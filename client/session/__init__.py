"""A client's time in a federation: connected, working, sending, reconnecting."""
