"""The base: the frozen public model that all members share."""
