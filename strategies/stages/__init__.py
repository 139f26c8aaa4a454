"""The settings of each kind of stage, and the table of the kinds."""
