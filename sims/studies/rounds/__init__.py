"""Studies of rounds: who takes part when, and where a round begins."""
