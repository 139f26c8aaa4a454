"""kill -9 of the coordinator at every durable write: the same result, each contribution once.

A write's name says which functions led to it. Every name is killed before its first write and after
one in the middle of the plan; `FEDMORE_KILLS=every` takes every write there is.
"""

import os
import shutil
import threading
from collections import Counter

import pytest

TRAINED = {"ada": 3, "bob": 3, "eve": 1, "gil": 2}
"""Training tasks of each client: its rounds, and one of the router's."""
BY_THE_CLOCK = ("account", "sweep")
"""Parts of the names of writes that one run may have more of than another."""
EVERY = os.environ.get("FEDMORE_KILLS") == "every"

pytestmark = pytest.mark.slow


def killed_at(template, folder, *points):
    """A run whose coordinator was killed at each of `points` and started again."""
    place = template.copy(folder / "place")
    place.start_clients()
    for at in points:
        assert place.coordinate(at) == -9, f"no such write: {at}\n{place.story()}"
    assert place.coordinate() == 0, place.story()
    place.join_clients()
    assert trained(place) == TRAINED
    return place


def trained(place):
    kinds = ("train", "train.route")
    return {name: sum(place.done[name, kind] for kind in kinds) for name in TRAINED}


def check(template, undisturbed, folder, *points):
    place = killed_at(template, folder, *points)
    assert place.outcome() == undisturbed.outcome(), f"killed {points}: {place.writes()}"
    shutil.rmtree(place.folder)


def points_of(writes):
    """Where to kill: a name, the number of its write, before or after it."""
    points = []
    for name, count in sorted(Counter(writes).items()):
        clock = any(part in name for part in BY_THE_CLOCK)
        if EVERY and not clock:
            points += [(name, n, when) for n in range(1, count + 1) for when in ("before", "after")]
        else:
            points += [(name, 1, "before"), (name, 1 if clock else (count + 1) // 2, "after")]
    return points


def test_the_undisturbed_run_counts_everything_once(undisturbed):
    outcome = undisturbed.outcome()
    assert outcome["phase"] == "finished"
    assert trained(undisturbed) == TRAINED
    who = [sorted(row["clients"]) for row in outcome["rounds"].values()]
    left = ["ada", "bob", "gil"]
    assert who == [["ada", "bob", "eve"], ["ada", "bob"], ["gil"], left, left]
    assert (outcome["tasks left"], outcome["strangers in the store"]) == (0, [])
    assert {write.split()[0] for write in undisturbed.writes()} == {"commit", "rename", "delete"}
    for part in ("add_upload", "withdraw", "_collected", "_moved", "send", "_keep", "drop"):
        assert any(part in write for write in undisturbed.writes()), part


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", [0, 1])
def test_killed_at_every_write(template, undisturbed, tmp_path, part):
    points = points_of(undisturbed.writes())
    hit = {(name, when) for name, _, when in points}
    assert hit == {(name, when) for name in undisturbed.writes() for when in ("before", "after")}
    for point in points[part::2]:
        check(template, undisturbed, tmp_path, point)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("commit push_messages > send", "commit take > _keep"),
        ("commit finish > add_round", "commit finish > add_round"),
        ("commit take > _keep", "commit settle > drop"),
    ],
)
def test_killed_again_as_it_goes_on(template, undisturbed, tmp_path, first, second):
    check(template, undisturbed, tmp_path, (first, 2, "after"), (second, 1, "before"))


def test_a_client_killed_in_the_middle_of_its_task_does_it_again(template, undisturbed, tmp_path):
    place = template.copy(tmp_path / "place")
    codes = []
    coordinator = threading.Thread(target=lambda: codes.append(place.coordinate()))
    coordinator.start()
    place.start_clients(but="ada")
    assert place.take_part("ada", dies=True) == -9
    assert place.take_part("ada", dies=False) == 0, (place.folder / "ada.log").read_text()
    coordinator.join(60)
    place.join_clients()
    assert codes == [0], place.log()
    assert place.outcome() == undisturbed.outcome()
