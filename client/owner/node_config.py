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
from fedmore.client.owner.policy import OwnerPolicy, parse_policy
from fedmore.client.owner.secret import derive, owner_secret
from fedmore.client.state.memory import Memory
from fedmore.experts.base.model import Base, load_base
from fedmore.experts.reading.columns import TEXT
from fedmore.experts.reading.documents import Format
from fedmore.experts.text.opener import AUTO


@dataclass(frozen=True)
class Node:
    """What the owner chose; `state` is the folder of `fedmore.client.state.memory`.

    `opener` and `open_windows` are the federation's choice (`fedmore.experts.text.opener`).
    `policy` is an `OwnerPolicy` as JSON; an empty text is the default policy. The agreed plan and
    the owner's secret lie in `state`. `column` and `encoding` say how the text is written, see
    `fedmore.experts.reading.documents`.
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

    @classmethod
    def of(cls, context: Context) -> "Node":
        """The owner's choices from `context.node_config`."""
        return cls.read(dict(context.node_config))

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "Node":
        """The node of a `node_config`."""
        paths = {key: Path(str(config[key])) for key in ("data", "state")}
        known = {key: config[key] for key in cls.__dataclass_fields__ if key in config}
        return cls(**(known | paths))

    def load(self) -> Base:
        """The base, loaded once a process."""
        base = load_base(self.base, self.dtype, self.device, self.quantization)
        return base.opened(self.opener, self.open_windows)

    def documents(self) -> tuple[str, ...]:
        """The owner's text, read once a process."""
        form = Format(self.encoding, self.column)
        base = (self.base, self.dtype, self.device, self.quantization)
        return documents_of(self.data, form, *base)

    def memory(self, node_id: int) -> Memory:
        """What this member remembers; its node id keeps two federations of one name apart."""
        return Memory(self.state / f"node-{node_id}")

    @property
    def rules(self) -> OwnerPolicy:
        """What the owner lets a federation do."""
        return _policy(self.policy)

    @property
    def agreement(self) -> Agreement:
        """The plan that the owner agreed to."""
        return Agreement(self.state)

    @property
    def given(self) -> Memory:
        """The embedding that this owner gives, the same under whatever node id it is asked."""
        return Memory(self.state)

    @property
    def answered(self) -> Answered:
        """Which rounds this owner has taken on, under whatever node id it was asked."""
        return Answered(self.state)

    def seed(self, *parts: object) -> int:
        """A seed of the owner's own: it depends on its secret and on `parts`."""
        return derive(owner_secret(self.state), *parts)


@functools.lru_cache
def _policy(text: str) -> OwnerPolicy:
    return parse_policy(text)
