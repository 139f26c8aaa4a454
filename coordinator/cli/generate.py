"""Commands to talk to the mixture; `add` registers them."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # they import torch
    from fedmore.coordinator.generation.generator import MixtureGenerator
    from fedmore.experts.mixture.generation import Generated

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's folder.")]
MaxTokens = Annotated[int, typer.Option(help="Maximum number of new tokens, from 1.")]
Temperature = Annotated[
    float, typer.Option(help="0 takes the likeliest token; higher values draw more freely.")
]
TopP = Annotated[
    float, typer.Option(help="Draw only from the likeliest tokens with this total probability.")
]
Seed = Annotated[int, typer.Option(help="Seed of the draws, from 0.")]
Folder = Annotated[
    Path | None, typer.Option("--mixture", help="Folder of the mixture; by default DIR/mixture.")
]
ShowExperts = Annotated[
    bool,
    typer.Option(
        "--show-experts/--no-show-experts", help="Colour tokens by expert and add a legend."
    ),
]


def add(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (generate, chat):
        app.command()(command)


def generate(
    directory: Directory,
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    max_tokens: MaxTokens = 64,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    json_file: Annotated[
        str,
        typer.Option(
            "--json", metavar="FILE|-", help="Write every token's weights as JSON; - prints them."
        ),
    ] = "",
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page that shows the experts of every token."),
    ] = None,
    show_experts: ShowExperts = True,
    folder: Folder = None,
) -> None:
    """Let the mixture continue a text, and show which expert made each token."""
    from rich.console import Console

    from fedmore.coordinator.generation.generator import open_speaker, said
    from fedmore.coordinator.generation.terminal import TokenRenderer, colours, legend
    from fedmore.experts.mixture.generation import Settings
    from fedmore.protos.runtime.exits import interruptible

    text, settings = said(prompt), Settings(max_tokens, temperature, top_p, seed)
    for path in (Path(json_file) if json_file not in ("", "-") else None, html):
        writable(path)
    with interruptible("the text so far is above"):
        speaker = open_speaker(directory, folder)
        ids = speaker.text.document(text)
        painter = TokenRenderer(Console(quiet=json_file == "-"), show_experts)
        with painter.following(speaker.tokenizer, ids):
            made = speaker.speak(ids, settings, painter)
    if show_experts:
        notes = Console(stderr=True, quiet=json_file == "-")
        notes.print(legend(used(speaker, made), colours(notes)))
    if json_file:
        write(json_file, json.dumps(table(speaker, made, text), indent=2, ensure_ascii=False))
    if html is not None:
        from fedmore.coordinator.generation.page import page

        write(str(html), page(speaker, made))


def chat(
    directory: Directory,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    show_experts: ShowExperts = True,
    folder: Folder = None,
) -> None:
    """Talk with the mixture line by line, and see which experts answer."""
    from rich.console import Console

    from fedmore.coordinator.generation.chat import Chat
    from fedmore.coordinator.generation.generator import open_speaker
    from fedmore.experts.mixture.generation import Settings
    from fedmore.protos.runtime.exits import interruptible

    settings = Settings(max_tokens, temperature, top_p, seed)
    with contextlib.suppress(ImportError):  # a system without it edits lines less well
        import readline  # noqa: F401
    with interruptible("the conversation is not stored; `coordinator chat` begins a new one"):
        speaker = open_speaker(directory, folder)
        Chat(speaker, settings, Console(), show_experts).run(ask)


def ask() -> str | None:
    """Read a line from the terminal or a pipe; None at its end."""
    from fedmore.experts.errors import ConfigError

    terminal = sys.stdin.isatty()
    try:
        return input("> " if terminal else "")
    except EOFError:
        if terminal:
            typer.echo()
        return None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the input is not UTF-8 text: {error.reason}") from error


def used(speaker: "MixtureGenerator", made: "Generated") -> dict[str, float]:
    """Mean weight of every arm over the new tokens."""
    return dict(zip(speaker.arms, made.used.tolist(), strict=True))


def table(speaker: "MixtureGenerator", made: "Generated", prompt: str) -> dict[str, Any]:
    """The contents for --json; a piece is a token, or the tokens of one character."""
    given, new = speaker.given(made), speaker.made(made)
    return {
        "prompt": prompt,
        "text": "".join(piece.text for piece in new),
        "ended": made.ended,
        "experts": list(speaker.arms),
        "used": {name: round(weight, 4) for name, weight in used(speaker, made).items()},
        "pieces": [
            {
                "text": piece.text,
                "tokens": piece.tokens,
                "given": index < len(given),
                "weights": [round(weight, 4) for weight in piece.mean.tolist()],
            }
            for index, piece in enumerate([*given, *new])
        ],
    }


def writable(path: Path | None) -> None:
    """Raise `ConfigError` before any work if the file cannot be written."""
    from fedmore.experts.errors import ConfigError

    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{path}: cannot be written: name a file in an existing folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{path}: cannot be written: Permission denied")


def write(where: str, text: str) -> None:
    """Write to a file, or to stdout for -."""
    from fedmore.experts.errors import ConfigError

    if where == "-":
        typer.echo(text)
        return
    try:
        Path(where).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{where}: cannot be written: {error.strerror}") from error
