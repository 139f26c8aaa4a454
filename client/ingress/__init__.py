"""What the coordinator sends, checked before it is used."""
