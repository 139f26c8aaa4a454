"""How our programs run: exit codes, logs, and Flower apps by name."""
