"""Bits per byte and their intervals."""
