"""Tasks for the clients and their replies: queued, journalled, accepted."""
