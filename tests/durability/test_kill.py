"""kill -9 of the coordinator at every durable write: the same result, each contribution once."""

import shutil
import threading

import pytest

CLIENTS, ROUNDS = ("ada", "bob"), 2
WRITES_MORE = 2
"""How many writes a run may have more than the undisturbed one: some go by the clock."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(template, tmp_path_factory):
    """A run that nobody kills."""
    place = template.copy(tmp_path_factory.mktemp("undisturbed") / "place")
    place.start_clients()
    assert place.coordinate() == 0, place.log()
    place.join_clients()
    return place


def killed_at(template, folder, at):
    """A run whose coordinator was killed at a write and started again, and whether it was."""
    place = template.copy(folder / "place")
    place.start_clients()
    code = place.coordinate(at)
    assert code in (0, -9), place.story()
    if code:
        assert place.coordinate() == 0, place.story()
    place.join_clients()
    assert {name: place.done[name, "train"] for name in CLIENTS} == dict.fromkeys(CLIENTS, ROUNDS)
    return place, code == -9


def check(template, undisturbed, folder, points):
    """Each of `points` in a run of its own; how many were killed."""
    expected, kills = undisturbed.outcome(), 0
    for at in points:
        place, killed = killed_at(template, folder, at)
        assert place.outcome() == expected, f"killed {at[1]} write {at[0]}: {place.writes()}"
        shutil.rmtree(place.folder)
        kills += killed
    return kills


def test_the_undisturbed_run_counts_everything_once(undisturbed):
    outcome = undisturbed.outcome()
    assert outcome["phase"] == "finished"
    assert outcome["tokens"] == {"ada": 512, "bob": 512}
    assert [sorted(row["clients"]) for row in outcome["rounds"].values()] == [["ada", "bob"]] * 2
    assert (outcome["tasks left"], outcome["strangers in the store"]) == (0, [])
    kinds = {write.split()[0] for write in undisturbed.writes()}
    assert kinds == {"commit", "rename", "delete"}


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("push_messages > send", "after"),
        ("take > _keep", "after"),
        ("keep_version > add_expert", "before"),
        ("_finish > add_round", "before"),
        ("_finish > add_round", "after"),
    ],
)
def test_killed_where_it_hurts_most(template, undisturbed, tmp_path, name, when):
    number = 1 + next(i for i, write in enumerate(undisturbed.writes()) if write.endswith(name))
    assert check(template, undisturbed, tmp_path, [(number, when)]) == 1


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", [0, 1])
def test_killed_at_every_write(template, undisturbed, tmp_path, part):
    count = len(undisturbed.writes()) + WRITES_MORE
    points = [(n, when) for n in range(1, count + 1) for when in ("before", "after")]
    kills = check(template, undisturbed, tmp_path, points[part::2])
    assert kills >= 0.8 * len(points[part::2])


def test_a_client_killed_in_the_middle_of_its_task_does_it_again(template, undisturbed, tmp_path):
    place = template.copy(tmp_path / "place")
    codes = []
    coordinator = threading.Thread(target=lambda: codes.append(place.coordinate()))
    coordinator.start()
    bob = threading.Thread(target=lambda: codes.append(place.take_part("bob", dies=False)))
    bob.start()
    assert place.take_part("ada", dies=True) == -9
    assert place.take_part("ada", dies=False) == 0, (place.folder / "ada.log").read_text()
    for thread in (coordinator, bob):
        thread.join(60)
    assert codes == [0, 0], place.log()
    assert place.outcome() == undisturbed.outcome()
