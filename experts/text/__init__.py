"""Turns text into tokens: openers, training windows, passages, control tokens."""
