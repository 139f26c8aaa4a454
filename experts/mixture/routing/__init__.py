"""The routing of one call: decided by hooks, kept in the call and its cache."""
