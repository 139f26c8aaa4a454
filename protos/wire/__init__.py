"""Messages, records and blobs as bytes, and back."""
