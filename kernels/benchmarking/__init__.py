"""Times kernels against an opponent and against the limits of the device."""
