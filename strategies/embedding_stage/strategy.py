"""The Flower strategy of the router stage: clients send a domain embedding, nothing else."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedmore.experts.errors import RoundError, WireError
from fedmore.strategies.embedding_stage.embeddings import Embedding, by_expert
from fedmore.strategies.members import Member, ask_members, nobody
from fedmore.strategies.rounds.quorum_grid import RoundGrid, quorum
from fedmore.strategies.rounds.replies import by_node, check_has_text, read_replies
from fedmore.strategies.rounds.train_only import RoundStrategy
from fedmore.strategies.settings import STRICT
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.tasks.base import Request, read_request
from fedmore.strategies.tasks.train import EMBED, pack, unpack
from fedmore.strategies.terms import EMBED_DOCUMENTS, EMBED_TOKENS

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


class EmbeddingStrategy(RoundStrategy):
    """Collects the mean input embedding of every client's text (`strategies.embeddings`).

    A client that fails is left out and named in the metrics. `RoundError` is raised if fewer than
    the quorum answer, or nobody does.
    """

    def __init__(
        self,
        stage: EmbeddingStage,
        width: int,
        seed: int,
        on_round: OnEmbeddings,
        withdrawn: Callable[[], AbstractSet[str]] = nobody,
    ) -> None:
        self.stage, self.width, self.seed = stage, width, seed
        self.on_round, self.withdrawn = on_round, withdrawn
        self._members: dict[int, Member] = {}
        self._missing: list[str] = []

    def patient(self, grid: Grid) -> RoundGrid:
        """`grid` as this stage waits on it; give it to `start`."""
        return RoundGrid(grid, self.stage)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every client for its embedding."""
        group = f"{self.stage.kind}/{server_round}"
        patient = grid if isinstance(grid, RoundGrid) else self.patient(grid)
        here = set(patient.grid.get_node_ids())
        members, self._missing = ask_members(patient.grid, self.stage.timeout_s, group)
        if not members:
            no_one = "no client sends a domain embedding"
            raise RoundError("; ".join([no_one, *self._missing]), nobody=True)
        self._members = {}
        task: Any = asdict(
            EmbedTask(EMBED_DOCUMENTS, EMBED_TOKENS, self.seed, "router", server_round)
        )
        content = RecordDict({"task": ConfigRecord(task)})

        def ask(node: int, member: Member) -> Message:
            self._members[node] = member
            return Message(content, dst_node_id=node, message_type=EMBED, group_id=group)

        patient.let_in(group, ask, here | {node for node, _ in members}, self._missing)
        return [ask(node, member) for node, member in members]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The embeddings that came; the same for any order of replies."""
        found = read_replies(
            replies,
            self._members,
            by_node,
            self._embedding,
            metrics=METRICS,
            withdrawn=self.withdrawn,
            missing=self._missing,
        )
        if len(found.accepted) < quorum(self.stage, len(self._members)):
            causes = "; ".join(found.failures)
            raise RoundError(f"no domain embedding: {causes}", nobody=not found.accepted)
        sent = {each.asked.name: each.value for each in found.accepted}
        self.on_round(server_round, found.row(self.stage, server_round, {}), sent)
        arrays = {name: Array(mean.numpy()) for name, mean in by_expert(sent).items()}
        return ArrayRecord(arrays), MetricRecord()

    def _embedding(self, content: RecordDict, member: Member) -> Embedding:
        mean_D = read_embedding(content, self.width)
        check_has_text(member)
        return Embedding(member.target, member.size, mean_D)


def embedding_content(mean_D: Tensor, metrics: Mapping[str, int]) -> RecordDict:
    """A client's answer to `EMBED`: one vector at full precision and what it was made of."""
    record = ArrayRecord({"mean": pack("fp32", [mean_D])})
    return RecordDict({"embedding": record, "metrics": MetricRecord(dict(metrics))})


def read_embed_task(content: RecordDict) -> EmbedTask:
    """The settings in an `EMBED` message; raises `WireError` when they are not an `EmbedTask`."""
    return read_embed_request(content).task


def read_embed_request(content: RecordDict) -> Request[EmbedTask]:
    """An `EMBED` message as a value, which brings no arrays; raises `WireError`."""
    return read_request(content, _TASK, "an embedding task")


def read_embedding(content: RecordDict, width: int) -> Tensor:
    """The vector [`width`] in a client's answer; raises `WireError` when there is none."""
    record = content.array_records.get("embedding", ArrayRecord())
    if list(record) != ["mean"]:
        raise WireError(f"the embedding holds {list(record)}, not one array named mean")
    return unpack(record["mean"], [(width, 1)])[0].view(-1)
