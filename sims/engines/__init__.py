"""Ways to run the two Flower apps on one machine."""
