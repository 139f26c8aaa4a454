"""Scores text in bits per byte, with confidence intervals, and chooses the opener."""
