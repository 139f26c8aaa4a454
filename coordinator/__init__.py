"""The coordinator program: registry, transport, plan, assembly, evaluation."""
