"""What people and trackers are told of a run."""
