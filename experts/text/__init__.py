"""Text as tokens: openers, windows, passages, control tokens."""
