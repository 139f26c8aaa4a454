"""How much of the server a caller may have."""
