"""Formats events as lines of text, for the log and for output without a terminal."""

from fedmore.experts.ranks import described
from fedmore.protos.system.terminal import plain
from fedmore.strategies.events import (
    Evaluated,
    Event,
    Joined,
    Left,
    LeftOut,
    Progress,
    Received,
    Refused,
    RoundFinished,
    RoundStarted,
    Scoring,
    StageSkipped,
    StageStarted,
    Waiting,
    Withdrawn,
)

LONGEST_LINE = 5_000


def line(event: Event) -> str:
    """Format an event as one line; empty for events that only update a number."""
    return plain(_line_of_client(event) or _line_of_plan(event), LONGEST_LINE)


def _line_of_client(event: Event) -> str:
    match event:
        case Joined():
            trains = f": {event.kind} {event.target}, rank {described(event.rank, event.ranks)}"
            return f"{event.name} joined" + ("" if event.kind == "app" else trains)
        case Left():
            return f"{event.name} left: {event.reason}"
        case Withdrawn():
            why = event.reason and f": {event.reason}"
            return f"{event.name} withdrew{why}; the next aggregate is without its work"
        case Progress():
            return (
                f"{event.name}: step {event.step}/{event.steps}, loss {event.loss:.3f}, "
                f"{event.tokens_per_s:.0f} tokens/s"
            )
        case Received() if event.failure:
            return f"{event.name} failed: {event.failure}"
        case Refused():
            return f"{event.name}: refused: {event.reason}"
    return ""


def _line_of_plan(event: Event) -> str:
    match event:
        case StageStarted():
            rounds = f"{event.rounds} round" + ("" if event.rounds == 1 else "s")
            return "; ".join([f"stage {event.stage + 1} ({event.kind}): {rounds}", *event.warnings])
        case RoundStarted():
            return f"round {event.round + 1} begins"
        case RoundFinished():
            done = f"round {event.round + 1} done{_mean_loss(event)}"
            without = [f"without {failure}" for failure in event.metrics.get("failures", ())]
            return "; ".join([done, *without, *event.metrics.get("warnings", ())])
        case Scoring():
            return f"scoring {event.name}: {event.done} of {event.total} passes over a text"
        case Evaluated():
            return f"evaluated {event.name}"
        case StageSkipped():
            ends = f"stage {event.stage + 1} ({event.kind}) ends early"
            return f"{ends} and the plan goes on: {event.reason}"
        case Waiting():
            names = ", ".join(event.names)
            return f"nobody else is left: waiting up to {event.seconds:g} s for {names}"
        case LeftOut():
            return f"{event.name} is left out of the mixture: {event.reason}"
    return ""


def _mean_loss(event: RoundFinished) -> str:
    clients = event.metrics.get("clients", {})
    losses = [c["loss"] for c in clients.values() if c.get("loss") is not None]
    return f": mean loss {sum(losses) / len(losses):.3f}" if losses else ""
