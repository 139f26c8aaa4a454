"""Limits of how much of the server a caller may use."""
