"""The work of one task: an expert, an adapter, a router or an embedding."""
