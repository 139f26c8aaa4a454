"""The study `embedding-inversion`: which words an embedding reveals, and how well it routes."""
