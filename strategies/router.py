"""The Flower strategy of the router stage: clients send a domain embedding, nothing else."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedmore.experts.errors import RoundError, WireError
from fedmore.strategies.embeddings import Embedding, by_expert
from fedmore.strategies.members import Member, ask_members
from fedmore.strategies.plan import STRICT, Stage
from fedmore.strategies.tasks import EMBED, pack, read_metrics, unpack
from fedmore.strategies.train_only import TrainOnly
from fedmore.strategies.work import read_settings

DOCUMENTS = 1000  # FlexOlmo, arXiv 2507.07024: about a thousand documents a domain
TOKENS = 128
METRICS = ("documents", "tokens")

OnEmbeddings = Callable[[int, dict[str, Any], Mapping[str, Embedding]], None]


@dataclass(frozen=True, config=STRICT)
class EmbedTask:
    """Embed the first `tokens` tokens of each of `documents` documents, drawn by `seed`."""

    documents: int
    tokens: int
    seed: int
    stage: str
    round: int


_TASK = TypeAdapter(EmbedTask)


class EmbeddingStrategy(TrainOnly):
    """Collects the mean input embedding of every client's text (`strategies.embeddings`)."""

    def __init__(self, stage: Stage, width: int, seed: int, on_round: OnEmbeddings) -> None:
        self.stage, self.width, self.seed, self.on_round = stage, width, seed, on_round
        self._members: dict[int, Member] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every client."""
        group = f"{self.stage.kind}/{server_round}"
        members, missing = ask_members(grid, self.stage.timeout_s, group)
        if missing:
            raise RoundError("every owner's embedding is needed: " + "; ".join(missing))
        self._members = dict(members)
        task: Any = asdict(EmbedTask(DOCUMENTS, TOKENS, self.seed, "router", server_round))
        content = RecordDict({"task": ConfigRecord(task)})
        return [
            Message(content, dst_node_id=node, message_type=EMBED, group_id=group)
            for node in self._members
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Every client's embedding; each must have answered."""
        answers, clients = self._read(replies)
        found = {m.name: Embedding(m.target, m.size, mean) for m, mean in answers}
        metrics = {"stage": "router", "round": server_round, "clients": clients, "experts": {}}
        self.on_round(server_round, metrics, found)
        arrays = {name: Array(mean.numpy()) for name, mean in by_expert(found).items()}
        return ArrayRecord(arrays), MetricRecord()

    def _read(
        self, replies: Iterable[Message]
    ) -> tuple[list[tuple[Member, Tensor]], dict[str, Any]]:
        """Embeddings in order of client name, and their metrics; raises `RoundError`."""
        answers: list[tuple[Member, Tensor]] = []
        clients: dict[str, Any] = {}
        waiting, failures = dict(self._members), []
        for reply in replies:
            member = waiting.pop(reply.metadata.src_node_id)
            try:
                answers.append((member, read_embedding(reply, self.width)))
                clients[member.name] = read_metrics(reply.content, METRICS)
            except WireError as error:
                failures.append(f"{member.name}: {error}")
        failures += [f"{member.name}: no answer in time" for member in waiting.values()]
        if failures:
            raise RoundError("no domain embedding: " + "; ".join(sorted(failures)))
        return sorted(answers, key=lambda pair: pair[0].name), clients


def embedding_content(mean_D: Tensor, metrics: Mapping[str, int]) -> RecordDict:
    """A client's answer to `EMBED`: one vector at full precision and what it was made of."""
    record = ArrayRecord({"mean": pack("fp32", [mean_D])})
    return RecordDict({"embedding": record, "metrics": MetricRecord(dict(metrics))})


def read_embed_task(content: RecordDict) -> EmbedTask:
    """The settings in an `EMBED` message; raises `WireError` when they are not an `EmbedTask`."""
    return read_settings(content, _TASK, "an embedding task")


def read_embedding(reply: Message, width: int) -> Tensor:
    """The vector [`width`] in a client's answer; raises `WireError` when there is none."""
    if reply.has_error():
        raise WireError(reply.error.reason)
    record = reply.content.array_records.get("embedding", ArrayRecord())
    if list(record) != ["mean"]:
        raise WireError(f"the embedding holds {list(record)}, not one array named mean")
    return unpack(record["mean"], [(width, 1)])[0].view(-1)
