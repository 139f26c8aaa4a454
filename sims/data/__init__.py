"""Real text from package registries."""
