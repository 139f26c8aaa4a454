"""Real text from package registries, and generated text for tests."""
