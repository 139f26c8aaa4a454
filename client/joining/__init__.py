"""`client join`: the plan is agreed to, and everything is checked before the invite is used."""
