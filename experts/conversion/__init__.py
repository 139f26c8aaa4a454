"""Models that were trained elsewhere, as low-rank changes of the base."""
