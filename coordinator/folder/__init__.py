"""A federation's folder: its layout, how it is made and opened, and its pairing with the store."""
