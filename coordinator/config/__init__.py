"""What a federation is asked to be: `federation.toml`, read strictly and written with comments."""
