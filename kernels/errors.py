"""The root of the exception tree and the kernels' own error; the rest is in `experts.errors`."""


class FedmoreError(Exception):
    """The root: every error that a user can cause or must act on."""


class KernelError(FedmoreError):
    """An op has no form for the device, or what the form needs is not installed."""
