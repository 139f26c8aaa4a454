"""Chooses the opener of a new federation once, by the base's loss on public text."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.experts.errors import BaseError, ConfigError
from fedmore.experts.text.opener import AUTO, resolve

if TYPE_CHECKING:  # it imports torch
    from fedmore.experts.base.model import Base

BUILT_IN = Path(__file__).with_name("public.txt")
"""Openings of books and speeches in the public domain, if a federation has no public text."""

BETWEEN = "\n***\n"

Tell = Callable[[str], None]


def with_opener(config: FederationConfig, tell: Tell) -> FederationConfig:
    """Replace the opener `auto` by the best one, and pass the figures to `tell`.

    A configured opener is only checked. Raises `ConfigError` if the base's tokenizer lacks it.
    """
    if config.federation.app:
        return config
    if config.base.opener != AUTO:
        check_opener(config)
        return config
    from fedmore.coordinator.folder.shared_base import base_of
    from fedmore.experts.scoring.opener_choice import choose

    base = base_of(config)
    choice = choose(base.model, base.tokenizer, public_documents(config, base))
    for line in choice.lines():
        tell(line)
    opener = choice.opener
    chosen = replace(config.base, opener=opener.name, open_windows=opener.windows)
    return replace(config, base=chosen)


def check_opener(config: FederationConfig) -> None:
    """Raise `ConfigError` unless the base's tokenizer has the configured opener."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(config.base.model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BaseError(f"base {config.base.model!r}: no tokenizer: {error}") from error
    found = resolve(tokenizer, config.base.opener, config.base.open_windows)
    if found.windows != config.base.open_windows:
        raise ConfigError("base.open_windows: nothing can open windows, base.opener is 'none'")


def public_documents(config: FederationConfig, base: "Base") -> list[str]:
    """The federation's public text, or by default the text that comes with the program."""
    from fedmore.experts.reading.conversations import chat_template
    from fedmore.experts.reading.documents import read_documents

    if config.router.public_text:
        path = Path(config.router.public_text)
        return read_documents(path, converse=chat_template(base.tokenizer))
    return BUILT_IN.read_text(encoding="utf-8").strip().split(BETWEEN)
