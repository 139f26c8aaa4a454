"""What became of the goals of `round-start`: shares of pooled training's gain, with intervals."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from fedmore.sims.report.outcome import at_least, at_most
from fedmore.sims.studies.finished import interval
from fedmore.sims.studies.rounds.study import Row
from fedmore.sims.studies.rounds.variants import POOLED

SHARES = {"like": 0.95, "unlike": 0.90}
ONE_BIT = 0.005

BySeed = dict[int, float]
NEW, OWN = ("aggregate", 0.5), ("own", 0.0)


def with_shares(rows: Sequence[Row]) -> list[Row]:
    """The rows with the share of pooled training's gain that each has.

    Pooled training is taken at its best rate over the seeds, after as many rounds of an equal plan.
    It has the text of several owners, so one owner alone has no share of its gain.
    """
    found = []
    for row in rows:
        place = {key: row[key] for key in ("model", "split", "rounds", "after")}
        pooled = best(rows, start=POOLED, **place)
        compared = row["seed"] in pooled and len(row["ranks"]) > 1
        gain = row["base_bpb"] - pooled[row["seed"]] if compared else 0.0
        share = (row["base_bpb"] - row["mean_bpb"]) / gain if gain > 0 else None
        found.append({**row, "pooled_gain_share": share})
    return found


def best(rows: Sequence[Row], value: str = "mean_bpb", **fields: Any) -> BySeed:
    """A value by seed of the rows with these fields, at the rate that is best over the seeds."""
    some = [row for row in rows if all(row[key] == wanted for key, wanted in fields.items())]
    by_rate = {
        lr: [row for row in some if row["lr"] == lr] for lr in sorted({row["lr"] for row in some})
    }
    chosen = min(by_rate.values(), key=lambda each: mean(r["mean_bpb"] for r in each), default=[])
    return {row["seed"]: row[value] for row in chosen if row[value] is not None}


def goals_of(rows: Sequence[Row]) -> Mapping[str, Any]:
    """Every goal: its mean, 95 % interval over seeds (Student's t), and what became of it.

    What is held against `own` is held against `own` of the same codec and ranks.
    """
    found = dict[str, Any]()
    for model, split, codec, ranks in _settings(rows):
        place = {"model": model, "split": split}
        label = f"{model}, {split}, {_kind_of(ranks)}, {codec}"
        new, own = (
            dict[str, Any](place) | {"start": start, "momentum": momentum, "ranks": ranks}
            for start, momentum in (NEW, OWN)
        )
        share = best(rows, "pooled_gain_share", **new, codec=codec, rounds=20, after=20)
        found[f"share of pooled gain after 20 rounds: {label}"] = _goal(
            share, SHARES[split], above=True
        )
        for rounds in (3, 20):
            there, against = (
                best(rows, **each, codec=codec, rounds=rounds, after=rounds) for each in (new, own)
            )
            found[f"bits per byte above own after {rounds} rounds: {label}"] = _goal(
                {seed: there[seed] - against[seed] for seed in there if seed in against}, 0.0
            )
        if codec != "fp32":
            coarse, fine = (
                best(rows, **new, codec=each, rounds=20, after=20) for each in (codec, "fp32")
            )
            found[f"above fp32 after 20 rounds: {label}"] = _goal(
                {seed: coarse[seed] / fine[seed] - 1 for seed in coarse if seed in fine}, ONE_BIT
            )
    return {name: goal for name, goal in found.items() if goal["seeds"]}


def _kind_of(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return "one owner"
    return "ranks equal" if len(set(ranks)) == 1 else "ranks mixed"


def _settings(rows: Sequence[Row]) -> list[tuple[str, str, str, list[int]]]:
    new = [row for row in rows if (row["start"], row["momentum"]) == NEW]
    found = {(r["model"], r["split"], r["codec"], tuple(r["ranks"])) for r in new}
    return [(model, split, codec, list(ranks)) for model, split, codec, ranks in sorted(found)]


def _goal(by_seed: BySeed, bound: float, *, above: bool = False) -> dict[str, Any]:
    values = [value for _, value in sorted(by_seed.items())]
    ci95 = interval(values)
    found = (ci95[0], ci95[1]) if ci95 else None
    return {
        "seeds": sorted(by_seed), "mean": mean(values) if values else 0.0, "ci95": ci95,
        "goal": f"{'at least' if above else 'at most'} {bound}",
        "outcome": at_least(found, bound) if above else at_most(found, bound),
    }  # fmt: skip
