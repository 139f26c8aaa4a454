"""The routing study: compares all routers over the same frozen federated experts."""
