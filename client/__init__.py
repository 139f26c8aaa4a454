"""The client program: joins a federation and trains on private text."""
