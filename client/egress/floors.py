"""How much of an owner's text must be behind what leaves, and how much a task may ask for."""

from collections.abc import Sequence

from fedmore.client.data.text_amount import PASSAGE, TextAmount, text_amount
from fedmore.client.owner.node_config import Node
from fedmore.client.owner.policy import OwnerPolicy
from fedmore.experts.errors import EgressError
from fedmore.strategies.tasks.base import Work


def check_text(node: Node, needed: int) -> None:
    """Raise `EgressError` unless the owner has `needed` tokens of text, and enough passages."""
    floor = TextAmount(needed, node.rules.min_passages)
    found = text_amount(node.documents(), node.load().text, floor)
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


def check_embedded(rules: OwnerPolicy, tokens: int, passages: int) -> None:
    """Raise `EgressError` for a domain embedding of too few tokens or passages."""
    if tokens < rules.min_embedding_tokens or passages < rules.min_passages:
        raise EgressError(
            f"the embedding would be made of {tokens} tokens in {passages} passages; the owner "
            f"lets none out of fewer than {rules.min_embedding_tokens} in "
            f"{rules.min_passages} (min_embedding_tokens and min_passages of --policy)"
        )


def check_amount(rules: OwnerPolicy, task: Work, tags: Sequence[str], needed: int) -> None:
    """Every setting inside the owner's bounds, and enough tokens and steps behind an answer.

    `tags` are those of the codecs that the answer travels in, and `needed` tokens are enough.
    """
    if not 1 <= task.round <= task.rounds:
        raise EgressError(f"asked for round {task.round} of {task.rounds}")
    if found := rules.excess(task.stage, task):
        raise EgressError(f"asked for more than the owner allows: {'; '.join(found)}")
    if not set(tags) <= set(rules.codecs):
        raise EgressError(
            f"asked for an update as {task.codec!r}; the owner allows "
            f"{', '.join(rules.codecs)} (--codec)"
        )
    if min(task.batch_size, task.sequence_length) < 1 or task.steps < rules.min_steps:
        raise EgressError(
            f"asked for an update made of {task.steps} x {task.batch_size} windows; the owner "
            f"lets none out of fewer than {rules.min_steps} steps (min_steps of --policy)"
        )
    if task.tokens < needed:
        raise EgressError(
            f"asked for an update made of {task.tokens} tokens of text, and the owner lets "
            f"none out of fewer than {needed} (--min-tokens, or min_tokens and "
            "tokens_per_direction of --policy)"
        )
