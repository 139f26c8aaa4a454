"""The routing of one call: hooks let the router decide, and the call and its cache remember it."""
