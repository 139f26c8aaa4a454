"""How a client's training spares memory, as the owner chose it."""

from dataclasses import dataclass

from fedmore.experts.errors import ConfigError

OPTIMIZERS = ("adamw", "adamw8bit")


@dataclass(frozen=True)
class MemorySaving:
    """How a client's training spares memory; the default spares none.

    Args:
        optimizer: AdamW with moments of 32 bits, or of 8.
        gradient_checkpointing: compute a block's activations again in the backward pass, in place
            of keeping them. The result is the same.

    """

    optimizer: str = "adamw"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Raise `ConfigError` for an unknown optimizer."""
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer {self.optimizer!r}: there are {' and '.join(OPTIMIZERS)}")


NO_SAVING = MemorySaving()
