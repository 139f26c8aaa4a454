"""The base: the frozen public model that all members of a federation share."""
