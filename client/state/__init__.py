"""What the client keeps on disk between tasks and runs."""
