"""The windows of the owner's text that a task trains on, and how far the text has been read."""

import functools
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmore.client.data.holdout import Parts, set_aside
from fedmore.client.egress.floors import check_text
from fedmore.client.owner.node_config import Node
from fedmore.client.state.reading_position import Reading
from fedmore.experts.text.tokenization import TextTokenizer
from fedmore.experts.text.windows import Place, Stream
from fedmore.strategies.tasks.base import Work


@dataclass(frozen=True)
class Drawn:
    """Windows [steps * batch, T + 1] from the documents, and how far the text is read then."""

    windows: Tensor
    documents: int
    reading: Reading


def training_windows(node: Node, task: Work, reading: Reading, needed: int) -> Drawn:
    """The windows that follow those of `reading`; over an epoch every token is in one of them.

    Raises `EgressError` if the owner has fewer than `needed` tokens of text.
    """
    if task.threads:
        torch.set_num_threads(task.threads)
    documents, text, seed = node.documents(), node.load().text, seed_of(node, task.seed)
    check_text(node, needed)
    stream = _stream(documents, text, task.sequence_length, seed)
    key = _key(documents, text.opener, task.sequence_length, seed)
    place = reading.place
    if reading.key != key:  # another text, or other windows: in an order that is new
        place = Place(epoch=place.epoch + 1) if reading.key else Place()
    found = stream.take(place, task.steps * task.batch_size)
    epochs = reading.epochs + task.tokens / stream.tokens
    return Drawn(found.windows, found.documents, Reading(key, found.place, epochs))


def holdout(node: Node, seed: int) -> Tensor | None:
    """Windows [W, T + 1] of the owner's text that no task trains on; None if it is too short."""
    return _parts(node.documents(), node.load().text, seed_of(node, seed)).holdout


def seed_of(node: Node, seed: int) -> int:
    """The seed of all windows of the owner's text: the plan's, and a secret of the owner."""
    return node.seed("windows", seed)


@functools.lru_cache(maxsize=16)
def _parts(documents: tuple[str, ...], text: TextTokenizer, seed: int) -> Parts:
    return set_aside(documents, text, seed)


@functools.lru_cache(maxsize=16)
def _stream(documents: tuple[str, ...], text: TextTokenizer, length: int, seed: int) -> Stream:
    return Stream(text, _parts(documents, text, seed).training, length, seed)


@functools.lru_cache(maxsize=16)
def _key(documents: tuple[str, ...], *cut: object) -> str:
    digest = hashlib.sha256(repr(cut).encode())
    for text in documents:
        digest.update(len(text).to_bytes(8, "little") + text.encode(errors="surrogatepass"))
    return digest.hexdigest()
