"""`coordinator chat`: a conversation with the mixture, line by line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from fedmore.coordinator.shown import Painter, legend
from fedmore.coordinator.status import narrow_table
from fedmore.experts.errors import ConfigError, FedmoreError

if TYPE_CHECKING:  # they import torch
    from fedmore.coordinator.speaker import Speaker
    from fedmore.experts.generation import Settings

COMMANDS = "/reset begins anew, /experts shows who spoke, /quit or Ctrl-D ends"

Ask = Callable[[], str | None]
"""The next line of the person; None at the end."""


@dataclass
class Conversation:
    """What was said so far, and its tokens: by the tokenizer's chat template, if it has one.

    Without one the text just goes on. `room` is how many tokens may be given to the model; None
    for no limit.
    """

    tokenizer: Any
    room: int | None
    turns: list[dict[str, str]] = field(default_factory=list)

    def ask(self, text: str) -> tuple[list[int], int]:
        """Tokens to go on from, and how many turns were forgotten to make room.

        Raises `ConfigError` for a text too long by itself, which is not kept.
        """
        self.turns.append({"role": "user", "content": text})
        before = len(self.turns)
        while self.room is not None and len(ids := self.ids()) > self.room:
            if len(self.turns) == 1:
                self.turns.clear()
                raise ConfigError(
                    f"{len(ids)} tokens are more than the {self.room} that there is room for; "
                    "say it shorter, or ask for fewer with --max-tokens"
                )
            del self.turns[:2]  # a question and its answer
        return self.ids(), before - len(self.turns)

    def answered(self, text: str) -> None:
        """Keep the model's answer."""
        self.turns.append({"role": "assistant", "content": text})

    def ids(self) -> list[int]:
        """Tokens of all turns, up to where the model has its say."""
        from fedmore.experts.text import tokenize

        if not self.tokenizer.chat_template:
            return tokenize(self.tokenizer, "\n".join(turn["content"] for turn in self.turns))
        text = self.tokenizer.apply_chat_template(
            self.turns, add_generation_prompt=True, tokenize=False
        )
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found


@dataclass
class Chat:
    """The loop: asks, answers, and shows which experts did."""

    speaker: "Speaker"
    settings: "Settings"
    console: Console
    show: bool

    def __post_init__(self) -> None:
        """Nothing has been said yet; raises `ConfigError` where an answer fills the base."""
        from fedmore.experts.generation import check_room, positions

        check_room(self.speaker.mixture, 1, self.settings.max_tokens)
        limit = positions(self.speaker.mixture)
        room = None if limit is None else limit - self.settings.max_tokens
        self.talk = Conversation(self.speaker.tokenizer, room)
        self.painter = Painter(self.console, self.show)
        self.used: list[tuple[int, Sequence[float]]] = []

    def run(self, ask: Ask) -> None:
        """Until there is nothing more to read, or /quit."""
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
        """A line that the model did not make."""
        self.console.print(Text(text, style="dim" if self.painter.coloured else ""))

    def command(self, text: str) -> None:
        """What begins with a slash."""
        if text == "/reset":
            self.talk.turns.clear()
            self.used.clear()
            self.say("forgotten; a new conversation")
        elif text == "/experts":
            self.console.print(experts_table(self.speaker, self.used))
        else:
            self.say(f"{text}: no such command; {COMMANDS}")

    def answer(self, text: str) -> None:
        """Have the model say something, and keep it."""
        try:
            ids, forgotten = self.talk.ask(text)
        except FedmoreError as error:
            self.say(str(error))
            return
        if forgotten:
            self.say(f"the first {forgotten} turns are forgotten: the base reads no more at once")
        self.painter.begin(self.speaker.tokenizer, ids)
        settings = replace(self.settings, seed=self.settings.seed + len(self.used))
        made = self.speaker.speak(ids, settings, self.painter)
        self.painter.end()
        self.talk.answered(self.painter.text)
        self.used.append((len(made.ids) - made.prompt, made.used.tolist()))
        if self.show:
            last = dict(zip(self.speaker.arms, self.used[-1][1], strict=True))
            self.console.print(legend(last, self.painter.coloured))


def experts_table(speaker: "Speaker", used: Sequence[tuple[int, Sequence[float]]]) -> Any:
    """Every arm: its weight in the last answer and in all of them."""
    table = narrow_table("expert", "kind", "target", "rank", "last answer", "conversation")
    tokens = sum(count for count, _ in used)
    kinds: Mapping[str, Any] = {entry.name: entry for entry in speaker.experts}
    for arm, name in enumerate(speaker.arms):
        entry = kinds.get(name) if arm else None
        about = (entry.kind, entry.target, str(entry.rank)) if entry else ("base", "", "")
        mean = sum(count * weights[arm] for count, weights in used) / max(tokens, 1)
        shares = (f"{used[-1][1][arm]:.0%}", f"{mean:.0%}") if used else ("", "")
        table.add_row(*(Text(cell) for cell in (name, *about, *shares)))
    return table
