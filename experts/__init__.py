"""What lives in one model: base, experts, adapters, mixture, routers."""
