"""The stage in which clients give a domain embedding."""
