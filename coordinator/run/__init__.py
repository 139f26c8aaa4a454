"""A federation's plan, from the start of the program to its end."""
