"""A federation's folder: made, opened, paired with its store, and what lies where in it."""
