"""What the command line of `client join` says, checked as far as needs nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedmore.client.joining.consent import policy_of
from fedmore.client.owner.memory_saving import NO_SAVING, MemorySaving
from fedmore.client.owner.policy import OwnerPolicy
from fedmore.experts.errors import ConfigError
from fedmore.experts.ranks import chosen
from fedmore.experts.reading.documents import Format
from fedmore.strategies.compression.policy import NAMES

Kind = Literal["expert", "adapter"]
AUTO = "auto"
"""The rank that the owner's own text asks for."""
RANK_STEPS = 32
"""Steps for which each candidate of `AUTO` is trained."""
DEFAULT_RANK: dict[Kind, int] = {"expert": 16, "adapter": 8}


@dataclass(frozen=True)
class JoinOptions:
    """What the command line says; `rank` None is the default, or that of an earlier start.

    Otherwise it is a rank, a pattern of ranks (`fedmore.experts.ranks`), or `AUTO`: then each
    candidate is trained for `rank_steps` steps (`fedmore.client.joining.rank_search`).
    """

    invite: Path
    data: Path
    kind: Kind
    target: str
    rank: int | str | None = None
    rank_steps: int = RANK_STEPS
    gpu: int | None = None
    cpu: bool = False
    state: Path | None = None
    base: str | None = None
    threads: int = 0
    patience_s: float = 300.0
    codecs: tuple[str, ...] = ()
    min_tokens: int | None = None
    policy: Path | None = None
    plan: Path | None = None
    yes: bool = False
    insecure: bool = False
    address: str = ""
    form: Format = field(default_factory=Format)
    saving: MemorySaving = NO_SAVING

    @property
    def rules(self) -> OwnerPolicy:
        """What the owner lets a federation do."""
        return policy_of(self.policy, self.codecs, self.min_tokens)

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a codec that there is not, or a pattern that is none."""
        if self.rank is not None and self.rank != AUTO:
            chosen(self.rank)
        for tag in self.codecs:
            if tag not in NAMES:
                raise ConfigError(f"--codec {tag}: there is none; known are {NAMES.listed()}")


def training(domain: str | None, language: str | None) -> tuple[Kind, str]:
    """What is trained; raises `ConfigError` unless exactly one of the two is given."""
    if domain and not language:
        return "expert", domain
    if language and not domain:
        return "adapter", language
    raise ConfigError("give exactly one of --domain NAME (an expert) and --language CODE")


def text_of(data: Path | None) -> Path:
    """Where the private text is; raises `ConfigError` if that is not said."""
    if data is None:
        raise ConfigError("give --data PATH: your text, a file or a folder")
    return data
