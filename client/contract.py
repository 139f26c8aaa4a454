"""The contract of one client: which tasks it does, and that answers are as declared for them."""

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import Message

from fedmore.client.declared import (
    Answer,
    embed_answer,
    hello_answer,
    route_answer,
    train_answer,
)
from fedmore.client.node import Node
from fedmore.client.routable import check_route
from fedmore.experts import factors as low_rank
from fedmore.experts.base import shapes_of
from fedmore.experts.errors import EgressError
from fedmore.experts.routing.saved import make_router
from fedmore.experts.spec import Site
from fedmore.strategies.compression.codec import Codec, codecs_of
from fedmore.strategies.members import HELLO
from fedmore.strategies.router import EmbedTask, read_embed_task
from fedmore.strategies.routes import (
    ROUTE,
    RouteTask,
    change_codecs,
    read_route_task,
    trained_shapes,
)
from fedmore.strategies.tasks import EMBED, TRAIN, TrainTask, read_task
from fedmore.strategies.work import Work

MIN_DOCUMENTS = 16
"""An embedding must be asked of so many documents, so that it is not the picture of one."""


@dataclass(frozen=True)
class Contract:
    """The declarations above for one client of one federation."""

    node: Node
    node_id: int

    def check_task(self, task: Message) -> None:
        """Raise `EgressError` for a task whose answer may not leave, `WireError` for no task."""
        kind = task.metadata.message_type
        if kind == TRAIN:
            self._check_train(read_task(task.content))
        elif kind == ROUTE:
            self._check_route(read_route_task(task.content))
        elif kind == EMBED:
            self._check_embed(read_embed_task(task.content))
        elif kind != HELLO:
            known = f"{HELLO}, {TRAIN}, {ROUTE} and {EMBED}"
            raise EgressError(f"asked for {kind!r}; only {known} are answered")

    def answer_to(self, task: Message) -> Answer:
        """What may leave as the answer to `task`."""
        kind = task.metadata.message_type
        if kind == HELLO:
            return hello_answer(self.node)
        if kind == EMBED:
            return embed_answer(self.width)
        if kind == ROUTE:
            return route_answer(read_route_task(task.content))
        asked = read_task(task.content)
        return train_answer(asked, self.sites(asked))

    def check_reply(self, task: Message, reply: Message) -> None:
        """Raise `EgressError` unless `reply` is what is declared for `task`."""
        self.check_task(task)
        if reply.has_error():
            raise EgressError("the app answered with an error of its own; its text stays here")
        self.answer_to(task).check(reply.content)

    def sites(self, task: TrainTask) -> tuple[Site, ...]:
        """The matrices that a task changes."""
        return task.spec(self.node.name).sites(shapes_of(self.node.load().model))

    @property
    def width(self) -> int:
        """Numbers of an input embedding."""
        return int(self.node.load().model.get_input_embeddings().weight.shape[1])

    def check_text(self, tokens: int) -> None:
        """Raise `EgressError` where an answer would be made of too few tokens of text."""
        if tokens < self.node.min_tokens:
            raise EgressError(
                f"the answer would be made of {tokens} tokens of text, and the owner lets none out "
                f"of fewer than {self.node.min_tokens} (client join --min-tokens)"
            )

    def _check_train(self, task: TrainTask) -> None:
        node = self.node
        asked = (task.kind, task.expert, task.target, task.rank)
        chosen = (node.kind, node.target, node.target, node.rank)
        if asked != chosen:
            raise EgressError(f"asked to train {asked}; the owner of this client chose {chosen}")
        self._check_amount(task)
        sites = self.sites(task)
        shapes = low_rank.shapes(sites, {site.path: task.rank for site in sites})
        self._check_codecs(task.codec, codecs_of(task.codec, shapes))

    def _check_route(self, task: RouteTask) -> None:
        """A router of this base, over experts that fit it, trained on enough text."""
        self._check_amount(task)
        check_route(task, self.width, shapes_of(self.node.load().model))
        shapes = list(trained_shapes(make_router(task.spec())).values())
        self._check_codecs(task.codec, change_codecs(task.codec, shapes))

    def _check_amount(self, task: Work) -> None:
        if min(task.steps, task.batch_size, task.sequence_length) < 1:
            raise EgressError(
                f"asked for an update made of {task.steps} x {task.batch_size} windows"
            )
        self.check_text(task.tokens)

    def _check_codecs(self, name: str, codecs: Sequence[Codec]) -> None:
        allowed = self.node.allowed_codecs()
        if not {codec.tag for codec in codecs} <= set(allowed):
            raise EgressError(
                f"asked for an update as {name!r}; the owner allows {', '.join(allowed)}"
            )

    def _check_embed(self, task: EmbedTask) -> None:
        if task.documents < MIN_DOCUMENTS:
            raise EgressError(
                f"asked to embed {task.documents} documents, fewer than {MIN_DOCUMENTS}"
            )
        if task.tokens < 1:
            raise EgressError(f"asked to embed {task.tokens} tokens of a document, fewer than 1")
        given = self.node.memory(self.node_id).embedding()
        if given is not None and given.asked != (task.documents, task.tokens, task.seed):
            raise EgressError(
                f"asked for a second embedding; one of {given.asked[0]} documents was given, and "
                "the difference of two would show single documents"
            )
