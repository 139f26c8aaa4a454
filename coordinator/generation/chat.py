"""`coordinator chat`: a conversation with the mixture, line by line."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from fedmore.coordinator.generation.terminal import TokenRenderer, legend
from fedmore.coordinator.monitor.status import narrow_table
from fedmore.experts.errors import ConfigError, FedmoreError
from fedmore.experts.spec import rank_name
from fedmore.protos.system.terminal import visible

if TYPE_CHECKING:  # they import torch
    from fedmore.coordinator.generation.generator import MixtureGenerator
    from fedmore.experts.mixture.generation import Settings
    from fedmore.experts.text.tokenization import TextTokenizer

COMMANDS = "/reset begins a new conversation, /experts shows the experts used, /quit or Ctrl-D ends"

Ask = Callable[[], str | None]
"""A function that reads the person's next line; None at the end."""


@dataclass
class Conversation:
    """The turns so far and their tokens, by the tokenizer's chat template if it has one.

    Without a template the turns are joined as plain text. `room` is the largest number of tokens
    for the model; None means no limit.
    """

    text: "TextTokenizer"
    room: int | None
    turns: list[dict[str, str]] = field(default_factory=list)

    def ask(self, text: str) -> tuple[list[int], int]:
        """Add a turn; returns the tokens to continue and the number of turns dropped to make room.

        Raises `ConfigError` for a text that is too long by itself; it is not added.
        """
        turns = [*self.turns, {"role": "user", "content": text}]
        while len(ids := self.ids(turns)) > (math.inf if self.room is None else self.room):
            if len(turns) == 1:
                raise ConfigError(
                    f"{len(ids)} tokens are more than the {self.room} that there is room for; "
                    "say it shorter, or ask for fewer with --max-tokens"
                )
            turns = turns[2:]  # without a question and its answer
        forgotten = len(self.turns) + 1 - len(turns)
        self.turns = turns
        return ids, forgotten

    def answered(self, text: str) -> None:
        """Keep the model's answer."""
        self.turns.append({"role": "assistant", "content": text})

    def ids(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        """Tokens of `turns`, up to the model's turn, with the opener as in training.

        Only the template writes control tokens; the content of a turn is always text.
        """
        from fedmore.experts.reading.conversations import chat_template

        tokenizer = self.text.tokenizer
        if not tokenizer.chat_template:
            return self.text.document("\n".join(turn["content"] for turn in turns))
        converse = chat_template(tokenizer, answering=True)
        return self.text.document(converse([dict(turn) for turn in turns]))


@dataclass
class Chat:
    """The loop that reads a line, answers it, and shows which experts did."""

    speaker: "MixtureGenerator"
    settings: "Settings"
    console: Console
    show: bool

    def __post_init__(self) -> None:
        """Start an empty conversation; raises `ConfigError` if an answer alone fills the base."""
        from fedmore.experts.mixture.generation import check_room, positions

        check_room(self.speaker.mixture, 1, self.settings.max_tokens)
        limit = positions(self.speaker.mixture)
        room = None if limit is None else limit - self.settings.max_tokens
        self.talk = Conversation(self.speaker.text, room)
        self.painter = TokenRenderer(self.console, self.show)
        self.used: list[tuple[int, Sequence[float]]] = []

    def run(self, ask: Ask) -> None:
        """Run until the input ends or /quit."""
        self.say(COMMANDS)
        while (line := ask()) is not None:
            text = line.strip()
            if text == "/quit":
                return
            if text.startswith("/"):
                self.command(text)
            elif text:
                self.answer(text)

    def say(self, text: str) -> None:
        """Print a line of the program's own."""
        style = "dim" if self.painter.colours else ""
        self.console.print(Text(visible(text), style=style), soft_wrap=True)

    def command(self, text: str) -> None:
        """Run a command that begins with a slash."""
        if text == "/reset":
            self.talk.turns.clear()
            self.used.clear()
            self.say("this is a new conversation")
        elif text == "/experts":
            self.console.print(experts_table(self.speaker, self.used))
        else:
            self.say(f"{text}: no such command; {COMMANDS}")

    def answer(self, text: str) -> None:
        """Let the model answer, and keep the answer."""
        from fedmore.coordinator.generation.generator import said
        from fedmore.experts.mixture.generation import SEEDS

        try:
            ids, forgotten = self.talk.ask(said(text))
        except FedmoreError as error:
            self.say(str(error))
            return
        if forgotten:
            self.say(
                f"the first {forgotten} turns are dropped, since the base cannot read more at once"
            )
        seed = (self.settings.seed + len(self.used)) % SEEDS
        with self.painter.following(self.speaker.tokenizer, ids):
            made = self.speaker.speak(ids, replace(self.settings, seed=seed), self.painter)
        self.talk.answered(self.painter.text)
        self.used.append((len(made.ids) - made.prompt, made.used.tolist()))
        if self.show:
            last = dict(zip(self.speaker.arms, self.used[-1][1], strict=True))
            self.console.print(legend(last, self.painter.colours))


def experts_table(speaker: "MixtureGenerator", used: Sequence[tuple[int, Sequence[float]]]) -> Any:
    """A table of every arm's weight in the last answer and in all answers."""
    table = narrow_table("expert", "kind", "target", "rank", "last answer", "conversation")
    tokens = sum(count for count, _ in used)
    kinds: Mapping[str, Any] = {entry.name: entry for entry in speaker.experts}
    for arm, name in enumerate(speaker.arms):
        entry = kinds.get(name) if arm else None
        about = (entry.kind, entry.target, rank_name(entry.rank)) if entry else ("base", "", "")
        mean = sum(count * weights[arm] for count, weights in used) / max(tokens, 1)
        shares = (f"{used[-1][1][arm]:.0%}", f"{mean:.0%}") if used else ("", "")
        table.add_row(*(Text(cell) for cell in (name, *about, *shares)))
    return table
