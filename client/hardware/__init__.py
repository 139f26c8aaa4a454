"""What this machine has and which rank fits in it."""
