"""The registry and its database, and the content-addressed store of blobs."""
