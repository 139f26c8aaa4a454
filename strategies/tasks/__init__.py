"""What tasks say, whatever they train."""
