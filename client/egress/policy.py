"""The contract of one client: which tasks it does, and that answers are as declared for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flwr.app import Message

from fedmore.client.data.text_amount import PASSAGE, TextAmount, text_amount
from fedmore.client.egress.plugins import plugins_in
from fedmore.client.egress.routable import check_route
from fedmore.client.egress.schema import (
    AnswerSchema,
    embed_answer,
    hello_answer,
    route_answer,
    train_answer,
)
from fedmore.client.owner.answered_rounds import Answered
from fedmore.client.owner.node_config import Node
from fedmore.experts import factors as low_rank
from fedmore.experts.base.model import shapes_of
from fedmore.experts.errors import EgressError
from fedmore.experts.plugins import Plugin
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.spec import TargetModule
from fedmore.strategies.agreement import (
    embed_differences,
    route_differences,
    train_differences,
)
from fedmore.strategies.compression.codec import Codec, codecs_of
from fedmore.strategies.embedding_stage.strategy import EmbedTask, read_embed_task
from fedmore.strategies.expert_stage.pending import task_of
from fedmore.strategies.members import HELLO, Member
from fedmore.strategies.router_stage.tasks import (
    ROUTE,
    RouteTask,
    change_codecs,
    read_route_task,
    trained_shapes,
)
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import FactorStage
from fedmore.strategies.stages.kinds import expert_kinds
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.tasks.base import Work
from fedmore.strategies.tasks.train import EMBED, TRAIN, TrainTask, read_task
from fedmore.strategies.terms import Terms

MIN_DOCUMENTS = 16
"""Number of documents that an embedding is made of at least, so that it shows no single one."""


@dataclass(frozen=True)
class EgressPolicy:
    """The declarations above for one client of one federation."""

    node: Node
    node_id: int

    def check_task(self, task: Message) -> None:
        """Raise `EgressError` for a task whose answer may not leave, `WireError` for no task."""
        kind = task.metadata.message_type
        self._check_plugins(plugins_in(task))
        if kind == TRAIN:
            self._check_train(read_task(task.content))
        elif kind == ROUTE:
            self._check_route(read_route_task(task.content))
        elif kind == EMBED:
            self._check_embed(read_embed_task(task.content))
        elif kind != HELLO:
            known = f"{HELLO}, {TRAIN}, {ROUTE} and {EMBED}"
            raise EgressError(f"asked for {kind!r}; only {known} are answered")

    def answer_to(self, task: Message) -> AnswerSchema:
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

    def sites(self, task: TrainTask) -> tuple[TargetModule, ...]:
        """The matrices that a task changes."""
        return task.spec(self.node.name).sites(shapes_of(self.node.load().model))

    @property
    def width(self) -> int:
        """Numbers of an input embedding."""
        return int(self.node.load().model.get_input_embeddings().weight.shape[1])

    def check_plan(self, terms: Terms) -> None:
        """Raise `EgressError` if a stage of a plan asks for what this owner lets no one have.

        Its settings may be out of bounds, or its answers made of more text than there is.
        """
        node = self.node
        self._check_plugins(terms.plugins())
        member = Member(node.name, node.kind, node.target, node.rank, 1, [], [])
        for stage in terms.stages:
            if isinstance(stage, FactorStage) and stage.trains == node.kind:
                task = task_of(stage, member, 1, 0, terms.seed)
                self._check_amount(task)
                self.check_text(self.tokens_needed(task))
            elif isinstance(stage, EmbeddingStage):
                self.check_text(node.rules.min_embedding_tokens)
            elif isinstance(stage, RouterStage):
                self.check_text(node.rules.min_tokens)

    @property
    def answered(self) -> Answered:
        """Which rounds this client has taken on."""
        return self.node.answered

    def claim(self, group: str, key: str) -> None:
        """Take on the task `key` as the one of its round; raises `EgressError` for another."""
        self.answered.claim(group, key, self.node.rules.rounds_per_day)

    def check_text(self, needed: int) -> None:
        """Raise `EgressError` unless the owner has `needed` tokens of text, and enough passages."""
        rules, text = self.node.rules, self.node.load().text
        floor = TextAmount(needed, rules.min_passages)
        found = text_amount(self.node.documents(), text, floor)
        if found.tokens < floor.tokens:
            raise EgressError(
                f"the owner's text has {found.tokens} tokens, and nothing leaves that is made of "
                f"fewer than {needed} (--min-tokens, or min_tokens, tokens_per_direction and "
                "min_embedding_tokens of --policy)"
            )
        if found.passages < floor.passages:
            raise EgressError(
                f"the owner's text has {found.passages} passages of up to {PASSAGE} tokens, and "
                f"nothing leaves that is made of fewer than {floor.passages} (min_passages of "
                "--policy)"
            )

    def check_embedded(self, tokens: int, passages: int) -> None:
        """Raise `EgressError` for a domain embedding of too few tokens or passages."""
        rules = self.node.rules
        if tokens < rules.min_embedding_tokens or passages < rules.min_passages:
            raise EgressError(
                f"the embedding would be made of {tokens} tokens in {passages} passages; the owner "
                f"lets none out of fewer than {rules.min_embedding_tokens} in "
                f"{rules.min_passages} (min_embedding_tokens and min_passages of --policy)"
            )

    def tokens_needed(self, task: Work) -> int:
        """Tokens that must be behind the answer to a task of training."""
        rank = task.rank if isinstance(task, TrainTask) else 0
        return self.node.rules.tokens_needed(rank, self._tags(task))

    def _check_plugins(self, plugins: Sequence[Plugin]) -> None:
        """Before any of them is imported: the owner must have allowed every one."""
        if found := self.node.rules.strangers(plugins):
            raise EgressError(f"the coordinator asks for what is not fedmore's: {'; '.join(found)}")

    def _check_train(self, task: TrainTask) -> None:
        node = self.node
        asked = (task.kind, task.expert, task.target, task.rank)
        chosen = (node.kind, node.target, node.target, node.rank)
        if asked != chosen:
            raise EgressError(f"asked to train {asked}; the owner of this client chose {chosen}")
        kinds = [kind for kind, by in expert_kinds().items() if by == node.kind]
        self._check_terms(task.stage, kinds, lambda terms: train_differences(terms, task))
        self._check_amount(task)

    def _check_route(self, task: RouteTask) -> None:
        """A router of this base, over experts that fit it, trained on enough text."""
        self._check_terms(task.stage, ["routing"], lambda terms: route_differences(terms, task))
        check_route(task, self.width, shapes_of(self.node.load().model), self.node.rules)
        self._check_amount(task)

    def _check_embed(self, task: EmbedTask) -> None:
        self._check_terms(task.stage, ["router"], lambda terms: embed_differences(terms, task))
        if task.documents < MIN_DOCUMENTS:
            raise EgressError(
                f"asked to embed {task.documents} documents, fewer than {MIN_DOCUMENTS}"
            )
        if task.tokens < 1:
            raise EgressError(f"asked to embed {task.tokens} tokens of a document, fewer than 1")

    def _check_terms(
        self, stage: str, kinds: Sequence[str], differences: Callable[[Terms], list[str]]
    ) -> None:
        """Raise `EgressError` if a task is not one of the plan that the owner agreed to.

        `kinds` are the stages that such a task belongs to; under another's name it would be
        answered beyond the rounds of its own.
        """
        if stage not in kinds:
            raise EgressError(f"asked for a task of {' or '.join(kinds)} in a stage {stage!r}")
        if self.node.rules.consent == "bounds":
            return
        terms = self.node.agreement.agreed
        if terms is None:
            raise EgressError("the owner has agreed to no plan yet (client accept)")
        if found := differences(terms):
            raise EgressError(
                f"not a task of the plan that the owner agreed to: {'; '.join(found)}"
            )

    def _check_amount(self, task: Work) -> None:
        """Every setting inside the owner's bounds, and enough tokens and steps behind an answer."""
        rules = self.node.rules
        if not 1 <= task.round <= task.rounds:
            raise EgressError(f"asked for round {task.round} of {task.rounds}")
        if found := rules.excess(task.stage, task):
            raise EgressError(f"asked for more than the owner allows: {'; '.join(found)}")
        self._check_codecs(task)
        if min(task.batch_size, task.sequence_length) < 1 or task.steps < rules.min_steps:
            raise EgressError(
                f"asked for an update made of {task.steps} x {task.batch_size} windows; the owner "
                f"lets none out of fewer than {rules.min_steps} steps (min_steps of --policy)"
            )
        if task.tokens < (needed := self.tokens_needed(task)):
            raise EgressError(
                f"asked for an update made of {task.tokens} tokens of text, and the owner lets "
                f"none out of fewer than {needed} (--min-tokens, or min_tokens and "
                "tokens_per_direction of --policy)"
            )

    def _check_codecs(self, task: Work) -> None:
        allowed = self.node.rules.codecs
        if not set(self._tags(task)) <= set(allowed):
            raise EgressError(
                f"asked for an update as {task.codec!r}; the owner allows {', '.join(allowed)} "
                "(--codec)"
            )

    def _tags(self, task: Work) -> list[str]:
        """Tags of the codecs that the answer to a task travels in."""
        codecs: Sequence[Codec] = ()
        if isinstance(task, TrainTask):
            sites = self.sites(task)
            shapes = low_rank.shapes(sites, {site.path: task.rank for site in sites})
            codecs = codecs_of(task.codec, shapes)
        elif isinstance(task, RouteTask):
            codecs = change_codecs(
                task.codec, list(trained_shapes(make_router(task.spec())).values())
            )
        return sorted({codec.tag for codec in codecs})
