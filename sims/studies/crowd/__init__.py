"""What many owners of one expert cost the coordinator, with and without limits."""
