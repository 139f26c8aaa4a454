"""`client preflight`: what this machine can do, and for a base the highest rank that fits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedmore.client.hardware.device import Machine, choose_device, free_memory, gib, inspect_machine
from fedmore.client.hardware.memory_estimate import (
    KEPT,
    TRAINED_BYTES,
    TRAINED_BYTES_8BIT,
    BaseSize,
    Batch,
    break_even,
    fixed_bytes,
    full_bytes,
    highest_rank,
    rank_bytes,
    rank_limit,
    size_of,
)
from fedmore.experts.base.hub import reach
from fedmore.experts.spec import ExpertSpec

if TYPE_CHECKING:
    from fedmore.experts.base.suitability import Kind, Suitability


PER_NUMBER = (TRAINED_BYTES, TRAINED_BYTES_8BIT)


@dataclass(frozen=True)
class Fit:
    """What fits of one kind: an expert or an adapter; bytes at `highest_rank`.

    `note` says why nothing can be trained, or what a change does not reach; mostly empty.
    `full_bytes` are those of a full-size change, and `full_bytes_8bit` those with
    `--optimizer adamw8bit`.
    """

    highest_rank: int
    rank_limit: int
    bytes_needed: int
    note: str = ""
    full_bytes: int = 0
    full_bytes_8bit: int = 0


@dataclass(frozen=True)
class BaseReport:
    """The base, and what fits beside it; above `break_even` a full matrix would be smaller."""

    name: str
    fingerprint: str
    parameters: int
    dtype: str
    break_even: float
    expert: Fit
    adapter: Fit


@dataclass(frozen=True)
class Preflight:
    """The whole answer; `device` is what `client join` would choose."""

    device: str
    free: int
    machine: Machine
    batch: Batch
    base: BaseReport | None


def preflight(
    base: str | None, *, gpu: int | None = None, cpu: bool = False, dtype: str = "auto"
) -> Preflight:
    """Look at the machine, and at the base if one is given; loads no weights."""
    if base is not None:
        reach(base)
    machine = inspect_machine()
    device = choose_device(machine, gpu, cpu)
    free = free_memory(machine, device)
    batch = Batch()
    report = None if base is None else report_base(base, dtype, device, free, batch)
    return Preflight(device, free, machine, batch, report)


def report_base(name: str, dtype: str, device: str, free: int, batch: Batch) -> BaseReport:
    """What fits beside the base in `free` bytes."""
    from fedmore.experts.base.model import compute_dtype, fingerprint_of
    from fedmore.experts.base.suitability import suitability

    chosen, fingerprint = compute_dtype(dtype, device), fingerprint_of(name)
    found = suitability(name)
    size = size_of(found.model, found.parts, chosen.itemsize)
    return BaseReport(
        name=name,
        fingerprint=fingerprint,
        parameters=size.parameters,
        dtype=str(chosen).removeprefix("torch."),
        break_even=break_even(size.width, size.ffn),
        expert=fit_of(found, "expert", size, free, batch),
        adapter=fit_of(found, "adapter", size, free, batch),
    )


def fit_of(found: "Suitability", kind: "Kind", size: BaseSize, free: int, batch: Batch) -> Fit:
    """What of one kind fits in `free` bytes."""
    if why := found.why_not(kind):
        return Fit(0, 0, 0, why)
    sites = ExpertSpec("preflight", kind, "", 1).sites(found.parts.shapes)
    rank = highest_rank(size, batch, sites, free)
    needed = fixed_bytes(size, batch) + max(rank, 1) * rank_bytes(size, batch, sites)
    whole = [fixed_bytes(size, batch) + full_bytes(size, sites, each) for each in PER_NUMBER]
    return Fit(rank, rank_limit(sites), needed, found.reach(kind), *whole)


def as_json(found: Preflight) -> dict[str, Any]:
    """The answer as JSON."""
    return asdict(found)


def view(found: Preflight) -> RenderableType:
    """The answer for a person."""
    lines: list[RenderableType] = [
        Text(found.machine.describe()),
        Text(f"device: {found.device}, {gib(found.free)} free"),
    ]
    if found.base is None:
        lines.append(Text("give --base PATH to see which rank fits"))
        return Group(*lines)
    base = found.base
    lines += [
        Text(f"base: {base.name}, {base.parameters:,} parameters as {base.dtype}"),
        Text(base.fingerprint),
        _fits({"expert (--domain)": base.expert, "adapter (--language)": base.adapter}),
        *_whole(base.expert, found.free),
        *(Text(fit.note) for fit in (base.expert, base.adapter) if fit.note),
        Text(
            f"for {found.batch.size} windows of {found.batch.length} tokens a step; above rank "
            f"{base.break_even:.0f} a full FFN matrix is smaller than its factors"
        ),
    ]
    return Group(*lines)


def _whole(fit: Fit, free: int) -> list[Text]:
    """A line on the memory of a full-size expert; none if no expert can be trained."""
    if not fit.rank_limit:
        return []
    fits = "fits" if fit.full_bytes_8bit <= free * KEPT else "does not fit"
    return [
        Text(
            f"a full-size expert (--rank full): {gib(fit.full_bytes)}, with --optimizer adamw8bit "
            f"{gib(fit.full_bytes_8bit)}, which {fits}"
        )
    ]


def _fits(fits: Mapping[str, Fit]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "highest rank that fits", "matrices allow", "memory then"):
        table.add_column(heading, no_wrap=True)
    for kind, fit in fits.items():
        if not fit.rank_limit:
            table.add_row(kind, "cannot be trained", "", "")
            continue
        rank = str(fit.highest_rank) if fit.highest_rank else "none fits"
        table.add_row(kind, rank, str(fit.rank_limit), gib(fit.bytes_needed))
    return table
