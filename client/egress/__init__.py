"""What may leave this machine, and the record of what has left it."""
