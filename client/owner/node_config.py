"""What the owner chose for this client, as the ClientApp finds it in `Context.node_config`."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flwr.app import Context

from fedmore.client.data.owner_text import documents_of
from fedmore.client.owner.agreement import Agreement
from fedmore.client.owner.answered_rounds import Answered
from fedmore.client.owner.memory_saving import MemorySaving
from fedmore.client.owner.policy import OwnerPolicy, parse_policy
from fedmore.client.owner.secret import derive, owner_secret
from fedmore.client.state.memory import Memory
from fedmore.experts.base.model import Base, load_base, shapes_of
from fedmore.experts.reading.columns import TEXT
from fedmore.experts.reading.documents import Format
from fedmore.experts.spec import Shapes
from fedmore.experts.text.opener import AUTO


@dataclass(frozen=True)
class Node:
    """What the owner chose; `state` is the folder of `fedmore.client.state.memory`.

    `node_id` is this client's in its federation, and keeps two federations of one name apart.
    `opener` and `open_windows` are the federation's choice (`fedmore.experts.text.opener`).
    `policy` is an `OwnerPolicy` as JSON; an empty text is the default policy. The agreed plan and
    the owner's secret lie in `state`. `column` and `encoding` say how the text is written, see
    `fedmore.experts.reading.documents`. `ranks` is the pattern of the ranks
    (`fedmore.experts.ranks`), of which `rank` is the largest; empty if all are `rank`.
    `optimizer` and `gradient_checkpointing` are those of `MemorySaving`.
    """

    name: str
    kind: Literal["expert", "adapter"]
    target: str
    rank: int
    data: Path
    base: str
    dtype: str
    device: str
    quantization: str
    state: Path
    opener: str = AUTO
    open_windows: bool = False
    policy: str = ""
    column: str = TEXT
    encoding: str = ""
    node_id: int = 0
    ranks: str = ""
    optimizer: str = "adamw"
    gradient_checkpointing: bool = False

    @classmethod
    def of(cls, context: Context) -> "Node":
        """The owner's choices from `context.node_config`."""
        return cls.read(dict(context.node_config), context.node_id)

    @classmethod
    def read(cls, config: Mapping[str, Any], node_id: int = 0) -> "Node":
        """The node of a `node_config`."""
        paths = {key: Path(str(config[key])) for key in ("data", "state")}
        known = {key: config[key] for key in cls.__dataclass_fields__ if key in config}
        return cls(**(known | paths | {"node_id": node_id}))

    def load(self) -> Base:
        """The base, loaded once a process."""
        base = load_base(self.base, self.dtype, self.device, self.quantization)
        return base.opened(self.opener, self.open_windows)

    @property
    def shapes(self) -> Shapes:
        """The base's matrices that can be changed."""
        return shapes_of(self.load().model)

    @property
    def width(self) -> int:
        """Numbers of an input embedding of the base."""
        return int(self.load().model.get_input_embeddings().weight.shape[1])

    @property
    def saving(self) -> MemorySaving:
        """How this client's training spares memory."""
        return MemorySaving(self.optimizer, self.gradient_checkpointing)

    def documents(self) -> tuple[str, ...]:
        """The owner's text, read once a process."""
        form = Format(self.encoding, self.column)
        base = (self.base, self.dtype, self.device, self.quantization)
        return documents_of(self.data, form, *base)

    @property
    def memory(self) -> Memory:
        """What this member remembers of its experts and of the router."""
        return Memory(self.state / f"node-{self.node_id}")

    @property
    def rules(self) -> OwnerPolicy:
        """What the owner lets a federation do."""
        return _policy(self.policy)

    @property
    def agreement(self) -> Agreement:
        """The plan that the owner agreed to."""
        return Agreement(self.state, self.rules.plugins)

    @property
    def given(self) -> Memory:
        """The embedding that this owner gives, the same under whatever node id it is asked."""
        return Memory(self.state)

    @property
    def answered(self) -> Answered:
        """Which rounds this owner has taken on, under whatever node id it was asked."""
        return Answered(self.state)

    def claim(self, group: str, key: str) -> None:
        """Take on the task `key` as the one of its round; raises `EgressError` for another."""
        self.answered.claim(group, key, self.rules.rounds_per_day)

    def seed(self, *parts: object) -> int:
        """A seed of the owner's own: it depends on its secret and on `parts`."""
        return derive(owner_secret(self.state), *parts)


@functools.lru_cache
def _policy(text: str) -> OwnerPolicy:
    return parse_policy(text)
