"""The invite, and what a federation tells a client about itself."""
