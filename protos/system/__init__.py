"""Files, hosts and terminals, for both programs."""
