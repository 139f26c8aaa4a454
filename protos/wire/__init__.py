"""Converts messages, records and blobs to bytes and back."""
