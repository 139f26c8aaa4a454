"""A scenario: a federation's configuration, its clients and their texts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedmore.sims.data.texts import TextFiles


@dataclass(frozen=True)
class ClientSpec:
    """One owner: what it trains, and on which `part` of `parts` of a text's documents.

    `rank` is what `client join --rank` takes: a rank, or a pattern of ranks.
    """

    name: str
    kind: Literal["expert", "adapter"]
    target: str
    rank: int | str
    text: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Scenario:
    """A whole run.

    `config` is `federation.toml` as a table, without the paths, which depend on the run directory.
    `policy` is the content of every owner's `owner.toml`. `evaluation` maps names in the report to
    texts. `base` and `text` make the base and the files of a text, given the run directory.
    """

    name: str
    description: str
    config: Mapping[str, object]
    clients: tuple[ClientSpec, ...]
    evaluation: Mapping[str, str]
    base: Callable[[Path], Path]
    text: Callable[[str, Path], TextFiles]
    public_text: str = "plain"
    policy: Mapping[str, object] = field(default_factory=dict)

    def texts(self) -> tuple[str, ...]:
        """All texts that the run reads, without repetition."""
        names = [client.text for client in self.clients]
        return tuple(dict.fromkeys([*names, *self.evaluation.values(), self.public_text]))
