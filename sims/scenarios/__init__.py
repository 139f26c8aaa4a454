"""A scenario is a function that returns a whole configuration."""
