"""The study `embedding-inversion`: which words an embedding gives away, and what it is for."""
