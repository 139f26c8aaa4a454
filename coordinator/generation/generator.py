"""A federation's mixture, loaded to generate text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.folder.layout import MIXTURE
from fedmore.coordinator.folder.shared_base import base_of
from fedmore.coordinator.mixture.validity import check_current
from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.checkpoint import Entry, load_mixture, read_recipe
from fedmore.experts.mixture.generation import Generated, OnToken, Settings, generate
from fedmore.experts.mixture.model import Mixture
from fedmore.experts.names import PUBLIC
from fedmore.experts.text.control_tokens import unmarked
from fedmore.experts.text.pieces import Piece, pieces
from fedmore.experts.text.tokenization import TextTokenizer


@dataclass(frozen=True)
class MixtureGenerator:
    """The mixture, its tokenizer, and its experts in the router's order."""

    mixture: Mixture
    text: TextTokenizer
    experts: tuple[Entry, ...]

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the mixture's base."""
        return self.text.tokenizer

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms: the public expert, then the others."""
        return (PUBLIC, *(entry.name for entry in self.experts))

    @property
    def layers(self) -> tuple[int, ...]:
        """The block of every decision; empty if all layers share one decision."""
        return () if self.mixture.router.shared else self.mixture.gates.blocks

    def speak(
        self, ids: Sequence[int], settings: Settings, on_token: OnToken | None = None
    ) -> Generated:
        """Continue the tokens `ids`."""
        return generate(self.mixture, self.tokenizer, ids, settings, on_token)

    def given(self, text: Generated) -> list[Piece]:
        """The pieces of the prompt, without its first token, which has no weights."""
        end = text.prompt
        return pieces(self.tokenizer, text.ids[:end], text.weights_LTA[:, : end - 1])

    def made(self, text: Generated) -> list[Piece]:
        """The pieces that the mixture wrote, with the weights that predicted each."""
        start = text.prompt - 1
        return pieces(self.tokenizer, text.ids[start:], text.weights_LTA[:, start:])


def open_speaker(directory: Path, folder: Path | None = None) -> MixtureGenerator:
    """Load the mixture in `folder`, by default DIR/mixture.

    Raises `RegistryError` if there is none.

    A damaged folder, or a mixture with the work of a withdrawn owner, is refused before the base is
    loaded.
    """
    place = folder or directory / MIXTURE
    with open_federation(directory) as federation:
        config, recipe = federation.config, read_recipe(place)
        check_current(directory, place, federation.registry)
    base = base_of(config)
    return MixtureGenerator(load_mixture(place, base), base.text, recipe.experts)


def said(text: str) -> str:
    """Check a person's text; raises `ConfigError` if it is empty or not UTF-8.

    Marks of control tokens are removed, so that only a chat template can set them.
    """
    text = unmarked(text)
    if not text.strip():
        raise ConfigError("the prompt is empty: give some text to continue")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the prompt is not UTF-8 text: {error.reason}") from error
    return text
