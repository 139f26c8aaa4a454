"""A training that is cut anywhere goes on and ends with the same factors, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fedmore.client.training import checkpoint as checkpoints
from fedmore.client.training.checkpoint import Checkpoints, Position, key_of
from fedmore.client.training.expert import Schedule, train
from fedmore.experts import factors as low_rank
from fedmore.experts.base.model import load_base, shapes_of
from fedmore.experts.spec import ExpertSpec
from fedmore.experts.text.windows import windows

TEXTS = [
    f"stir the soup {i} times, wait {i} minutes, then taste the broth. " * 4 for i in (1, 2, 3)
]
SPEC = ExpertSpec("kitchen/a", "expert", "kitchen", 4)
STEPS = 6


class KilledError(Exception):
    """Stands in for a kill: nothing of the training runs on."""


class Ticking:
    """A clock that moves by 1 s whenever it is read."""

    now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def every_step(file):
    return Checkpoints(file, interval_s=0, share=float("inf"))


def fit(tiny, kept=None, *, die_after=None, seed=0, frozen=False, **schedule):
    """Train; `die_after` steps it is killed."""
    base = load_base(str(tiny), "float32")
    sites = SPEC.sites(shapes_of(base.model))
    reports = []

    def report(step, *_):
        reports.append(step)
        if step == die_after:
            raise KilledError

    change = None
    if frozen:
        change = {
            s.path: (torch.ones(s.out_features, 2) * 1e-3, torch.ones(2, s.in_features))
            for s in sites
        }
    values = {"steps": STEPS, "batch_size": 2, "learning_rate": 1e-2, "number": 1, "rounds": 2}
    given = Schedule(**(values | schedule))
    text = windows(TEXTS, base.text, 32, given.steps * 2, seed)
    start = low_rank.initial(SPEC, sites, 0)
    done = train(
        base.model, sites, start, change, SPEC.scale, text, given, report, kept, base.fingerprint
    )
    return done, reports


def same(one, other):
    return one.loss == other.loss and all(
        torch.equal(x, y)
        for path, pair in one.factors.items()
        for x, y in zip(pair, other.factors[path], strict=True)
    )


@pytest.fixture(scope="module")
def whole(tiny):
    torch.set_num_threads(1)
    return fit(tiny)[0]


@pytest.mark.parametrize("die_after", range(1, STEPS))
def test_killed_after_any_step(tiny, tmp_path, whole, die_after):
    kept = every_step(tmp_path / "c")
    with pytest.raises(KilledError):
        fit(tiny, kept, die_after=die_after)
    done, reports = fit(tiny, every_step(tmp_path / "c"))
    assert reports[0] == die_after + 1
    assert same(done, whole)
    assert done.tokens == whole.tokens


@pytest.mark.parametrize("interval_s", [0, 2, 5, 1e9])
def test_the_interval_changes_nothing(tiny, tmp_path, whole, interval_s):
    kept = Checkpoints(tmp_path / "c", interval_s, Ticking(), float("inf"))
    assert same(fit(tiny, kept)[0], whole)
    assert (tmp_path / "c").is_file() == (interval_s < 10)


def test_killed_twice_between_checkpoints(tiny, tmp_path, whole):
    for die_after in (2, 5):
        with pytest.raises(KilledError):
            fit(
                tiny, Checkpoints(tmp_path / "c", 1.5, Ticking(), float("inf")), die_after=die_after
            )
    assert same(fit(tiny, Checkpoints(tmp_path / "c"))[0], whole)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"number": 2}, {"frozen": True}])
def test_a_checkpoint_of_another_training_is_not_used(tiny, tmp_path, changes):
    with pytest.raises(KilledError):
        fit(tiny, every_step(tmp_path / "c"), die_after=3)
    done, reports = fit(tiny, Checkpoints(tmp_path / "c", 1e9), **changes)
    assert reports[0] == 1
    assert same(done, fit(tiny, **changes)[0])


def test_a_damaged_checkpoint_costs_time_only(tiny, tmp_path, whole, caplog):
    (tmp_path / "c").write_bytes(b"x" * 99)
    assert same(fit(tiny, Checkpoints(tmp_path / "c", 1e9))[0], whole)
    assert "damaged" in caplog.text


def test_keys_tell_contents_apart():
    keys = {key_of(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], [torch.zeros(3)])}
    assert len(keys) == 4
    assert key_of([torch.ones(2, 3).T]) == key_of([torch.ones(6)])


def test_a_slow_disk_gets_checkpoints_more_rarely(tmp_path, monkeypatch):
    now = [0.0]

    def slow(*_, lasting):
        now[0] += 10.0

    monkeypatch.setattr(checkpoints, "save", slow)
    kept = Checkpoints(tmp_path / "c", 30.0, lambda: now[0])
    now[0] = 31.0
    assert kept.due()
    kept.write("key", Position(1, [1.0], {}))
    now[0] += 31.0
    assert not kept.due()
    now[0] += 170.0
    assert kept.due()


@pytest.mark.slow
def test_a_killed_process_goes_on(tiny, tmp_path, whole):
    """A real kill -9 in the middle of a task, then the same in this process."""
    file = tmp_path / "c"
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import time, pathlib, test_checkpoint as t\n"
        "t.torch.set_num_threads(1)\n"
        f"kept = t.every_step(pathlib.Path({str(file)!r}))\n"
        f"kept_write = kept.write\n"
        "def write(key, position):\n"
        "    kept_write(key, position)\n"
        "    if position.step == 3: print('3', flush=True); time.sleep(600)\n"
        "kept.write = write\n"
        f"t.fit(pathlib.Path({str(tiny)!r}), kept)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "3\n"
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    began = time.monotonic()
    done, reports = fit(tiny, Checkpoints(file))
    assert reports == [4, 5, 6]
    assert same(done, whole)
    assert time.monotonic() - began < 60
