"""The wire: service schema, generated stubs, and conversion of Flower messages to bytes."""
