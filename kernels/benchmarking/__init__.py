"""How kernels are measured: against an opponent, and against the device's limits."""
