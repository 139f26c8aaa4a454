"""Generates text from a federation's mixture, on a terminal and as a page."""
