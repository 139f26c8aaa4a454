"""The mixture: base, experts, adapters and router in one model."""
