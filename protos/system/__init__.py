"""Files, hosts and terminals, as both programs use them."""
