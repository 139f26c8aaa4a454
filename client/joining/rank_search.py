"""`client join --rank auto`: the rank that this machine can pay and the owner's own text asks for.

Candidates are the powers of two up to what memory and the owner's floors allow. Each is trained for
the same small number of steps, on the same windows of the owner's text and by the plan's own rule
for the learning rate. Each is then scored on the windows that the owner holds out, on which no task
trains. Singular values are not looked at: they do not tell which rank a domain needs. Nothing of it
leaves this machine but the rank that is chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import StringIO

from torch import Tensor

from fedmore.client.data.holdout import LENGTH, PART
from fedmore.client.egress.answer_rules import takes_part
from fedmore.client.egress.expert_rules import RULES
from fedmore.client.egress.policy import EgressPolicy
from fedmore.client.owner.node_config import Node
from fedmore.client.state.reading_position import Reading
from fedmore.client.training.batches import holdout, training_windows
from fedmore.client.training.component import Component, move
from fedmore.client.training.expert import Schedule, train
from fedmore.experts import factors as low_rank
from fedmore.experts.errors import DataError, EgressError, RankError
from fedmore.experts.low_rank_linear import combine, with_change
from fedmore.experts.scoring.bits_per_byte import (
    Score,
    interval,
    mean_bits_per_byte,
    token_losses,
)
from fedmore.protos.system.terminal import console
from fedmore.strategies.expert_stage.pending import task_of
from fedmore.strategies.members import Member
from fedmore.strategies.stages.expert import FactorStage
from fedmore.strategies.tasks.train import TrainTask
from fedmore.strategies.terms import Terms

MARGIN = 0.005
"""A rank is as good as the best one if it is worse by no more than this part of its figure."""

FEWEST = 4
"""With fewer held-out windows than this nothing can be told from them."""

Say = Callable[[str], None]
Measure = Callable[[int], "Measured"]


@dataclass(frozen=True)
class Measured:
    """A candidate: its rank, its scores on the held-out windows, and the numbers of an update."""

    rank: int
    scores: tuple[Score, ...]
    numbers: int

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of all held-out windows."""
        return mean_bits_per_byte(self.scores)


@dataclass(frozen=True)
class Choice:
    """The rank that was chosen, the best one, and all that were measured."""

    chosen: Measured
    best: Measured
    measured: tuple[Measured, ...]


def search(node: Node, terms: Terms, highest: int, steps: int, say: Say) -> int:
    """Search the rank for this owner and show what was measured.

    `highest` is what the memory allows. Raises `RankError` if no rank fits, and `DataError` if
    there is too little text to hold some out.
    """
    stage = stage_of(node, terms)
    fitting = candidates(node, terms, highest)
    held_out = holdout(node, terms.seed)
    if held_out is None or len(held_out) < FEWEST:
        raise DataError(
            f"{node.data}: too little text for --rank auto, which judges by {FEWEST} windows of "
            f"{LENGTH} tokens or more that are held out: one in {PART} documents, so give about "
            f"{FEWEST * LENGTH * PART:,} tokens of text, or say the rank yourself as in --rank 16"
        )
    say(
        f"looking for a rank: {', '.join(map(str, fitting))}, each for {steps} steps on your text, "
        f"scored on {len(held_out)} windows of it that are held out"
    )

    def measure(rank: int) -> Measured:
        return measured(node, terms, stage, rank, steps, held_out)

    found = choose([measure(rank) for rank in fitting])
    for line in table(found).splitlines():
        say(line)
    say(reason(found))
    return found.chosen.rank


def choose(measured: Sequence[Measured]) -> Choice:
    """The smallest rank that is as good as the best on held-out text.

    It is if it is worse by no more than `MARGIN`, or if the 95 % interval of the paired difference
    reaches 0: then the held-out text does not tell the two apart.
    """
    best = min(measured, key=lambda each: (each.bits_per_byte, each.rank))
    for each in sorted(measured, key=lambda each: each.rank):
        gap = each.bits_per_byte - best.bits_per_byte
        known = interval(each.scores, best.scores)
        if gap <= MARGIN * best.bits_per_byte or (known is not None and known[0] <= 0):
            return Choice(each, best, tuple(measured))
    return Choice(best, best, tuple(measured))


def candidates(node: Node, terms: Terms, highest: int) -> list[int]:
    """The powers of two up to `highest` that the owner's floors and bounds let out.

    Raises the owner's own `EgressError` if not even rank 1 may leave, and `RankError` if none fits.
    """
    if highest < 1:
        raise RankError(
            "--rank auto: no rank fits into the free memory (client preflight says what is needed)"
        )
    found = [1]
    EgressPolicy(replace(node, rank=1, ranks="")).check_plan(terms)
    while (rank := 2 * found[-1]) <= highest:
        try:
            EgressPolicy(replace(node, rank=rank, ranks="")).check_plan(terms)
        except EgressError:
            break  # the floors grow with the rank
        found.append(rank)
    return found


def stage_of(node: Node, terms: Terms) -> FactorStage:
    """The plan's stage that this owner trains in; raises `RankError` if there is none."""
    for stage in terms.stages:
        if isinstance(stage, FactorStage) and takes_part(node, stage):
            return stage
    raise RankError(
        f"--rank auto: this plan has no stage that trains an {node.kind}, so there is nothing to "
        "choose a rank by; say the rank yourself as in --rank 16"
    )


def measured(
    node: Node, terms: Terms, stage: FactorStage, rank: int, steps: int, held_out: Tensor
) -> Measured:
    """Train a candidate as the first round would for `steps` steps, and score it."""
    task = task_for(node, terms, stage, rank, steps)
    spec = task.spec(node.name)
    sites = spec.sites(node.shapes)
    scale, base = spec.scales(sites), node.load()
    start = low_rank.initial(spec, sites, task.seed)
    text = training_windows(node, task, Reading(), RULES.tokens_needed(node, task))
    schedule = Schedule(steps, task.batch_size, task.learning_rate, 1, 1)
    done = train(
        base.model, sites, start, None, scale, text.windows, schedule, lambda *_: None,
        bits=task.weight_bits, seed=low_rank.seed_of(node.name, "rank search", task.seed),
        nested=task.nested_ranks,
    )  # fmt: skip
    used = done.factors
    if task.weight_bits:  # what both ends hold are the weights of few bits, not the latent ones
        used = move(task, used, Component(start, low_rank.zeros(start)), sites).component.held
    model = with_change(base.model, combine([(used, scale)]))
    nats = token_losses(model, held_out.tolist())
    sizes = [len(_text(base.text.tokenizer, row).encode()) for row in held_out.tolist()]
    scores = tuple(Score(float(n.sum()), max(s, 1)) for n, s in zip(nats, sizes, strict=True))
    return Measured(rank, scores, low_rank.num_parameters(done.factors))


def task_for(node: Node, terms: Terms, stage: FactorStage, rank: int, steps: int) -> TrainTask:
    """The first round's task of an owner of this rank, with other `steps`."""
    member = Member(node.name, node.kind, node.target, rank, 1, [], [])
    return replace(task_of(stage, member, 1, 0, terms.seed), steps=steps)


def table(found: Choice) -> str:
    """The candidates as a table: rank, bits per byte, interval, numbers sent in every update."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("rank", "bits per byte", "95 %", "against the best", "numbers per update"):
        grid.add_column(heading, no_wrap=True, justify="right")
    for each in found.measured:
        mark = " <" if each.rank == found.chosen.rank else ""
        grid.add_row(
            f"{each.rank}{mark}",
            f"{each.bits_per_byte:.4f}",
            _span(interval(each.scores), "{:.4f}"),
            _span(interval(each.scores, found.best.scores), "{:+.4f}"),
            f"{each.numbers:,}",
        )
    out = StringIO()
    console(file=out, width=100, color_system=None).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def reason(found: Choice) -> str:
    """Why the rank was chosen, in a line."""
    chosen, best = found.chosen, found.best
    if chosen.rank == best.rank:
        return f"rank {chosen.rank}: the best on the held-out text"
    return (
        f"rank {chosen.rank}: the smallest that the held-out text does not tell from rank "
        f"{best.rank}, the best, or that is within {MARGIN:.1%} of it"
    )


def _span(known: tuple[float, float] | None, form: str) -> str:
    return "" if known is None else " to ".join(map(form.format, known))


def _text(tokenizer: object, row: Sequence[int]) -> str:
    """The text of a window's tokens but the first, which is not predicted."""
    text: str = tokenizer.decode(row[1:], clean_up_tokenization_spaces=False)  # type: ignore[attr-defined]
    return text
