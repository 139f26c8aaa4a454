"""The wire: service schema, generated stubs, Flower messages to and from bytes."""
