"""Routers decide which experts a token uses, in which layer and with what weight."""
