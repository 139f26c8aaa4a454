"""kill -9 of `coordinator withdraw` at every durable write: the next command finishes it.

Whichever command that is, the registry and the store end as if nobody had been killed. Until then
`status` says what is half done, and the mixture is not used. The same command goes on after every
write, another one after every third of them, or after each with `FEDMORE_KILLS=every`.
"""

import os
import re
import shutil
from collections import Counter

import pytest

from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.generation.generator import open_speaker
from fedmore.coordinator.lineage.verification import verify
from fedmore.coordinator.run import operator_api
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import RECOVERY
from fedmore.experts.errors import RegistryError

GONE = "bob"
PLAIN, RECOVERS = ("withdraw", GONE), ("withdraw", GONE, "--recover", "2")
FINISHING = {"withdraw": PLAIN, "assemble": ("assemble",), "start": ("start",)}
EVERY = os.environ.get("FEDMORE_KILLS") == "every"

pytestmark = pytest.mark.slow


def finished(undisturbed, folder, command):
    """The federation after the plan, and the same after a withdrawal that nobody disturbs.

    With recovery rounds the coordinator has no text to score the expert on: it gets them anyway.
    """
    place = undisturbed.copy(folder / "before")
    if command == RECOVERS:
        toml = place.directory / "federation.toml"
        text = re.sub(r"(?m)^kitchen = .*$", "", toml.read_text(encoding="utf-8"))
        toml.write_text(text, encoding="utf-8")
    (place.folder / "trace").unlink()
    after = place.copy(folder / "after")
    assert after.command(*command) == 0, after.log()
    return place, after


def outcome(place):
    with Registry.open(place.directory) as registry:
        gone, recovery = registry.withdrawn(), registry.get_state(RECOVERY)
    return place.outcome() | {"gone": gone, "recovery": recovery}


def points_of(writes):
    """After every write, and before the first, in which nothing has happened yet."""
    numbered = [(name, writes[: i + 1].count(name), "after") for i, name in enumerate(writes)]
    return [(writes[0], 1, "before"), *numbered]


def check_half_done(place):
    """What an operator is told, and that nobody is served anything in the meantime."""
    (line,) = operator_api.status(place.directory)["withdrawals"]
    assert line.startswith(f"{GONE} has withdrawn")
    assert f"`coordinator withdraw {place.directory} {GONE}`" in line
    with pytest.raises(RegistryError):
        open_speaker(place.directory)


def check_evidence(place):
    """There is one file of this withdrawal, and what is signed is true."""
    assert len(list((place.directory / "withdrawals").glob(f"{GONE}-*.json"))) == 1
    with open_federation(place.directory) as opened:
        assert verify(opened).withdrawals


def test_a_withdrawal_makes_every_kind_of_write(undisturbed, tmp_path):
    before, after = finished(undisturbed, tmp_path, PLAIN)
    changed = outcome(after)
    assert changed["gone"] == {"bob", "eve"}
    assert changed["strangers in the store"] == []
    assert changed["experts"] != outcome(before)["experts"]
    told = Counter(after.writes())
    for part in ("_bar", "drop_versions", "keep_version", "add_round", "keep_router", "_replace"):
        assert any(part in name for name in told), (part, told)
    assert {name.split()[0] for name in told} == {"commit", "rename", "delete"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", [PLAIN, RECOVERS], ids=["scored", "recovers"])
@pytest.mark.parametrize("by", sorted(FINISHING))
def test_killed_at_every_write(undisturbed, tmp_path, command, by):
    if command == RECOVERS and by == "start":
        pytest.skip("it would wait for the owners of the recovery rounds")
    before, after = finished(undisturbed, tmp_path, command)
    wanted, untouched = outcome(after), outcome(before)
    points = points_of(after.writes())
    for at in points if by == "withdraw" or EVERY else points[::3]:
        place = before.copy(tmp_path / "place")
        assert place.command(*command, at=at) == -9, f"no such write: {at}\n{place.log()}"
        if at[2] == "before":
            assert outcome(place) == untouched
        elif at[0] != after.writes()[-1]:
            check_half_done(place)
        again = command if at[2] == "before" and by == "withdraw" else FINISHING[by]
        assert place.command(*again) == 0, f"killed {at}\n{place.log()}"
        if at[2] == "before" and by != "withdraw":
            assert outcome(place) == untouched
        else:
            assert operator_api.status(place.directory)["withdrawals"] == []
            assert outcome(place) == wanted, f"killed {at}, then {by}"
            check_evidence(place)
        shutil.rmtree(place.folder)


@pytest.mark.parametrize("again", [1, 4, 8])
def test_killed_again_as_it_goes_on(undisturbed, tmp_path, again):
    before, after = finished(undisturbed, tmp_path, PLAIN)
    points = points_of(after.writes())
    place = before.copy(tmp_path / "place")
    assert place.command(*PLAIN, at=points[len(points) // 2]) == -9
    (place.folder / "trace").unlink()
    trial = place.copy(tmp_path / "trial")
    assert trial.command(*PLAIN) == 0
    rest = points_of(trial.writes())
    assert place.command(*PLAIN, at=rest[min(again, len(rest) - 2)]) == -9
    check_half_done(place)
    assert place.command(*PLAIN) == 0
    assert outcome(place) == outcome(after)
