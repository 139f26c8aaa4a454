"""Reads an owner's files as documents: finds them and handles encodings, formats and columns."""
