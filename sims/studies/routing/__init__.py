"""The routing study: every router over the same frozen federated experts."""
