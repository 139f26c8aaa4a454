"""`--rank auto`: which ranks are tried, on which text, and which one is chosen."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from owners import owner

from fedmore.client.egress.audit_log import Audit
from fedmore.client.joining import join as joins
from fedmore.client.joining.options import AUTO, JoinOptions
from fedmore.client.joining.rank_search import (
    Measured,
    candidates,
    choose,
    measured,
    reason,
    search,
    stage_of,
    task_for,
)
from fedmore.client.owner.node_config import Node
from fedmore.client.state.reading_position import Reading
from fedmore.client.training.batches import holdout, training_windows
from fedmore.experts.errors import DataError, EgressError, RankError
from fedmore.experts.scoring.bits_per_byte import Score
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.terms import RouterTerms, Terms

STAGE = ExpertStage(
    rounds=2, steps=4, batch_size=2, sequence_length=64, learning_rate=2e-2, codec="fp32"
)
ROUTER = RouterTerms(
    kind="domain", granularity="sequence", prefix_tokens=32, top_k=2, scaling="lora",
    init="zero", num_selections=1, entropy_weight=0.0, z_loss_weight=0.0,
)  # fmt: skip
TERMS = Terms(seed=3, stages=(STAGE,), router=ROUTER)


def scored(rank: int, *nats: float) -> Measured:
    """A candidate with so many nats in each held-out window of 100 bytes."""
    return Measured(rank, tuple(Score(each, 100) for each in nats), 1000 * rank)


@pytest.mark.parametrize(
    ("figures", "chosen"),
    [
        # The larger rank is better in every window, by far more than the margin.
        ([(1, 100, 110, 120), (2, 90, 99, 109), (4, 80, 88, 97)], 4),
        # A rank in the middle is best: more directions are not better.
        ([(2, 90, 99, 109), (4, 70, 77, 85), (8, 85, 93, 103)], 4),
        # Within the margin of the best, in every window: the smaller one.
        ([(2, 100, 110, 120), (4, 99.9, 109.9, 119.9)], 2),
        # Further off, but the windows do not agree on which is better: the smaller one.
        ([(2, 100, 110, 120), (4, 80, 112, 121)], 2),
        # The smallest is the best.
        ([(1, 70, 70, 71), (2, 90, 90, 92)], 1),
    ],
)
def test_the_smallest_rank_that_held_out_text_cannot_tell_from_the_best(
    figures: list[tuple[float, ...]], chosen: int
) -> None:
    found = choose([scored(int(rank), *nats) for rank, *nats in figures])
    assert found.chosen.rank == chosen
    assert reason(found).startswith(f"rank {chosen}: ")


def test_evidence_decides_and_not_what_a_rank_could_hold() -> None:
    """A candidate's size and energy are no part of what is compared."""
    measured = [scored(1, 50, 55, 61), scored(64, 51, 56.1, 62.3)]
    huge = [measured[0], replace(measured[1], numbers=10**12)]
    assert choose(huge).chosen.rank == choose(measured).chosen.rank == 1


@pytest.fixture
def node(tiny: Path, tmp_path: Path) -> Callable[..., Node]:
    def make(count: int = 160, **policy: Any) -> Node:
        data = tmp_path / "data.jsonl"
        texts = (f"stir the soup {i} times, wait {i} minutes, then taste it." for i in range(count))
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        config = {
            "name": "a", "kind": "expert", "target": "kitchen", "rank": 1, "data": str(data),
            "base": str(tiny), "dtype": "float32", "device": "cpu", "quantization": "none",
            **owner(tmp_path / "state", "a", **policy),
        }  # fmt: skip
        return Node.read(config, 5)

    return make


def test_it_finds_a_rank_on_the_owners_text_and_shows_why(node: Callable[..., Node]) -> None:
    said: list[str] = []
    rank = search(node(), TERMS, 8, 4, said.append)
    assert rank in (1, 2, 4, 8)
    assert said[0].startswith("looking for a rank: 1, 2, 4, 8, each for 4 steps on your text")
    rows = [line.split() for line in said[2:-1]]
    assert [row[0] for row in rows] == ["1", "2", "4", "8"]
    figures = {int(row[0]): float(row[2 if row[1] == "<" else 1]) for row in rows}
    assert [int(row[0]) for row in rows if row[1] == "<"] == [rank]
    assert all(0 < figure < 20 for figure in figures.values())
    assert f"{6 * 3 * rank * (64 + 176):,}" in said[2 + [1, 2, 4, 8].index(rank)]
    assert said[-1].startswith(f"rank {rank}: ")


def test_a_candidate_learns_from_the_windows_of_the_product(node: Callable[..., Node]) -> None:
    """More steps are better on held-out text, and the same call gives the same figures."""
    owner_, held_out = node(), holdout(node(), TERMS.seed)
    assert held_out is not None
    one, more, again = (measured(owner_, TERMS, STAGE, 4, steps, held_out) for steps in (4, 12, 12))
    assert more.bits_per_byte < one.bits_per_byte
    assert again == more


def test_what_is_scored_is_never_trained_on(node: Callable[..., Node]) -> None:
    owner_, task = node(), task_for(node(), TERMS, STAGE, 4, 64)
    held_out = holdout(owner_, TERMS.seed)
    assert held_out is not None
    trained = training_windows(owner_, task, Reading(), 1).windows.flatten().tolist()
    text = owner_.load().text.tokenizer.decode(trained)
    for row in held_out.tolist():
        assert owner_.load().text.tokenizer.decode(row[8:48]) not in text


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, [1, 2, 4, 8]),
        ({"tokens_per_direction": 25}, [1, 2, 4]),
        ({"min_tokens": 400}, [1, 2, 4, 8]),
    ],
)
def test_only_ranks_that_the_owners_floors_let_out(
    node: Callable[..., Node], policy: dict[str, Any], expected: list[int]
) -> None:
    """A round has 512 tokens; at fp32 a rank needs 5 times `tokens_per_direction`."""
    assert candidates(node(**policy), TERMS, 15) == expected


@pytest.mark.parametrize(
    ("count", "terms", "highest", "error", "says"),
    [
        (12, TERMS, 8, DataError, "too little text for --rank auto.*about 8,192 tokens of text"),
        (160, TERMS, 0, RankError, "no rank fits into the free memory"),
        (160, replace(TERMS, stages=(EmbeddingStage(),)), 8, RankError, "no stage that trains an"),
    ],
)
def test_it_says_no(
    node: Callable[..., Node], count: int, terms: Terms, highest: int, error: type, says: str
) -> None:
    with pytest.raises(error, match=says):
        search(node(count), terms, highest, 4, lambda _: None)


def test_too_little_text_for_any_rank_is_the_owners_own_error(node: Callable[..., Node]) -> None:
    with pytest.raises(EgressError, match="512 tokens of text"):
        candidates(node(min_tokens=10_000), TERMS, 8)
    assert stage_of(node(), TERMS) == STAGE


def test_what_was_found_is_kept_and_not_looked_for_again(
    hub: Any, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fake(_options: Any, _info: Any, _base: str, highest: int, *_: Any) -> int:
        calls.append(highest)
        return 2

    monkeypatch.setattr(joins, "search_rank", fake)
    (tmp_path / "one.txt").write_text("A private text. " * 200)
    options = JoinOptions(
        hub.invite("amt"), tmp_path / "one.txt", "expert", "legal", rank=AUTO,
        state=tmp_path / "state", base=str(tiny), yes=True,
    )  # fmt: skip
    assert options.state is not None
    with Audit(options.state) as audit:
        invite = joins.read_invite(options.invite)
        for _ in range(2):
            identity, _, config = joins.enter(
                options, invite, options.state, "cpu", audit, lambda _: None
            )
            assert (identity.rank, identity.ranks, config["rank"]) == (2, "", 2)
    assert len(calls) == 1
    assert 1 <= calls[0] <= 64
    (member,) = hub.federation.registry.members()
    assert (member.rank, member.ranks) == (2, "")


def test_a_pattern_is_enrolled_kept_and_not_to_be_changed(
    hub: Any, tmp_path: Path, tiny: Path
) -> None:
    (tmp_path / "one.txt").write_text("A private text. " * 200)
    options = JoinOptions(
        hub.invite("amt"), tmp_path / "one.txt", "expert", "legal", rank="gate=2, up=2,down=8",
        state=tmp_path / "state", base=str(tiny), yes=True,
    )  # fmt: skip
    said: list[str] = []
    assert options.state is not None
    with Audit(options.state) as audit:
        invite = joins.read_invite(options.invite)
        for each in (options, replace(options, rank=None)):
            identity, _, config = joins.enter(
                each, invite, options.state, "cpu", audit, said.append
            )
            assert (identity.rank, identity.ranks) == (8, "gate=2,up=2,down=8")
            assert (config["rank"], config["ranks"]) == (8, "gate=2,up=2,down=8")
        for other in ("gate=8,up=2,down=2", "8", "gat=2", "0-9:2"):
            with pytest.raises((joins.ConfigError, RankError)):
                joins.enter(
                    replace(options, rank=other), invite, options.state, "cpu", audit, print
                )
    (member,) = hub.federation.registry.members()
    assert (member.rank, member.ranks) == (8, "gate=2,up=2,down=8")
    assert any(line.endswith("expert legal, rank gate=2,up=2,down=8") for line in said)
