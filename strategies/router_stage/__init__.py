"""The stage in which clients train the router of the mixture."""
