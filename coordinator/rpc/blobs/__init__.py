"""Uploads and downloads of blobs."""
