"""The owner's text: read, measured, and partly held out."""
