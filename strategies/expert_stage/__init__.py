"""The stages that train domain experts and language adapters."""
