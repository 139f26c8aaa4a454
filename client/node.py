"""What the owner chose for this client, as the ClientApp finds it in `Context.node_config`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flwr.app import Context

from fedmore.client.data import documents_of
from fedmore.client.memory import Memory
from fedmore.experts.base import Base, load_base
from fedmore.experts.documents import Format
from fedmore.experts.opener import AUTO
from fedmore.experts.reading.columns import TEXT
from fedmore.strategies.compression.codec import CODECS

MIN_TOKENS = 256


@dataclass(frozen=True)
class Node:
    """What the owner chose; `state` is the folder of `fedmore.client.memory`.

    `opener` and `open_windows` are the federation's choice (`fedmore.experts.opener`).
    `codecs` (comma-separated; empty is all) are the layouts that an update may leave in, and
    `min_tokens` is the least text that one may be made of. `column` and `encoding` say how the text
    is written, see `fedmore.experts.documents`.
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
    codecs: str = ""
    min_tokens: int = MIN_TOKENS
    column: str = TEXT
    encoding: str = ""

    @classmethod
    def of(cls, context: Context) -> "Node":
        """Read `context.node_config`."""
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

    def allowed_codecs(self) -> tuple[str, ...]:
        """Tags of the codecs that an update may leave in."""
        return tuple(self.codecs.split(",")) if self.codecs else tuple(CODECS)
