"""Reports a run to people, waiting clients and trackers."""
