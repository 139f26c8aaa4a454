"""The Flower strategy of the router stage: clients send a domain embedding, nothing else."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedmore.experts.errors import RoundError
from fedmore.strategies.members import Member, ask_members, fail_on_errors
from fedmore.strategies.plan import Stage
from fedmore.strategies.tasks import EMBED, pack, unpack

DOCUMENTS = 1000  # FlexOlmo, arXiv 2507.07024: about a thousand documents a domain
TOKENS = 128

OnEmbeddings = Callable[[int, dict[str, Any], Mapping[str, Tensor]], None]


class EmbeddingStrategy(Strategy):
    """Collects the mean input embedding of every client's text, one per expert.

    The embedding of an expert with several owners is their mean by size of text.
    """

    def __init__(self, stage: Stage, width: int, seed: int, on_round: OnEmbeddings) -> None:
        self.stage, self.width, self.seed, self.on_round = stage, width, seed, on_round
        self.embeddings: dict[str, Tensor] = {}
        self._members: dict[int, Member] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every client."""
        self._members = dict(ask_members(grid, self.stage.timeout_s))
        task: Any = {"documents": DOCUMENTS, "tokens": TOKENS, "seed": self.seed}
        task |= {"stage": "router", "round": server_round}
        content = RecordDict({"task": ConfigRecord(task)})
        return [
            Message(content, dst_node_id=node, message_type=EMBED, group_id=str(server_round))
            for node in self._members
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Mean embeddings by expert; every client must have answered."""
        answers = list(replies)
        fail_on_errors(answers)
        if len(answers) < len(self._members):
            raise RoundError(f"{len(self._members) - len(answers)} clients sent no embedding")
        sums: dict[str, Tensor] = {}
        sizes: dict[str, int] = {}
        clients: dict[str, Any] = {}
        for member, reply in sorted(self._pairs(answers), key=lambda pair: pair[0].name):
            array = reply.content.array_records["embedding"]["mean"]
            (mean,) = unpack(array, [(self.width, 1)])
            weighted = mean.view(-1).double() * member.size
            sums[member.target] = sums.get(member.target, torch.zeros(())) + weighted
            sizes[member.target] = sizes.get(member.target, 0) + member.size
            clients[member.name] = dict(reply.content.metric_records["metrics"])
        self.embeddings = {name: total / sizes[name] for name, total in sums.items()}
        metrics = {"stage": "router", "round": server_round, "clients": clients, "experts": {}}
        self.on_round(server_round, metrics, self.embeddings)
        arrays = {name: Array(mean.numpy()) for name, mean in self.embeddings.items()}
        return ArrayRecord(arrays), MetricRecord()

    def _pairs(self, answers: list[Message]) -> list[tuple[Member, Message]]:
        return [(self._members[reply.metadata.src_node_id], reply) for reply in answers]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: the coordinator scores the mixture."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Nothing to aggregate."""
        return None

    def summary(self) -> None:
        """Nothing to log: the coordinator's console shows the plan."""


def embedding_content(mean_D: Tensor, metrics: Mapping[str, int]) -> RecordDict:
    """A client's answer to `EMBED`: one vector at full precision and what it was made of."""
    record = ArrayRecord({"mean": pack("fp32", [mean_D])})
    return RecordDict({"embedding": record, "metrics": MetricRecord(dict(metrics))})
