"""What happens between clients: Flower strategies, aggregation, compression."""
