"""Whatever becomes of its answers, what a client has sent and what it owes are its changes."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from thinning import examples

from fedmore.client.state.memory import Memory, Remembered
from fedmore.client.training import component as components
from fedmore.experts import factors as low_rank
from fedmore.experts.spec import TargetModule
from fedmore.strategies.compression.codec import codecs_of, decode
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.base import work_of
from fedmore.strategies.tasks.train import TrainTask

SITES = (
    TargetModule("model.layers.0.mlp.up_proj", 24, 40),
    TargetModule("model.layers.0.mlp.down_proj", 40, 24),
)
RANK = 3
CODECS = ("fp32", "bf16", "int8", "nf4", "sign1", "bitdelta", "auto", "sign1,factor_b=nf4")


def drawn(seed, size):
    g = torch.Generator().manual_seed(seed)
    return {
        s.path: (
            torch.randn(s.out_features, RANK, generator=g) * size,
            torch.randn(RANK, s.in_features, generator=g) * size,
        )
        for s in SITES
    }


INITIAL = {path: (b * 0, a) for path, (b, a) in drawn(0, 0.3).items()}


def task_of(codec, number, updates):
    return TrainTask(
        expert="legal", kind="expert", target="legal", rank=RANK, first_layers=1, last_layers=1,
        **work_of(ExpertStage(rounds=99, codec=codec), number, updates, 0),
    )  # fmt: skip


def flat(factors):
    return torch.cat([t.flatten().double() for _, pair in sorted(factors.items()) for t in pair])


@dataclass
class Coordinator:
    """What a coordinator holds of one client: its component, and how many updates made it."""

    held: dict
    updates: int = 0

    def take(self, task, data):
        shapes = low_rank.shapes(SITES, {site.path: RANK for site in SITES})
        sent = low_rank.from_tensors(decode(codecs_of(task.codec, shapes), data, shapes), SITES)
        self.held = low_rank.total(self.held, sent)
        self.updates += 1
        return flat(sent)


class Client:
    """What `client.app` does with a task, with a random step in place of the training."""

    def __init__(self, folder):
        self.memory = Memory(folder)

    def known(self):
        entry = self.memory.read("legal")
        return entry.updates if entry else 0

    def owes(self, updates):
        """What it owes as it would go on from a coordinator with so many of its updates."""
        entry = self.memory.read("legal")
        if entry is None or updates == 0:
            return torch.zeros_like(flat(INITIAL))
        return flat(entry.residual if entry.updates == updates else entry.before[1])

    def work(self, task, *, killed=False):
        """The answer and the change that was trained; one that is `killed` remembers nothing."""
        entry = self.memory.read("legal")
        own = components.find(task, entry, INITIAL)
        change = drawn(1000 * task.round + task.updates, 0.05)
        trained = low_rank.total(own.start, change)
        moved = components.move(task, trained, own, SITES)
        if not killed:
            after, before = moved.component, (own.held, own.beside)
            made = Remembered(
                after.held, after.beside, task.updates + 1, repr(task), moved.data, {}, {}, before
            )
            self.memory.write("legal", made)
        return moved.data, flat(low_rank.difference(trained, own.start))


class Owing(RuleBasedStateMachine):
    """Rounds of which each answer is taken, refused, late, or cut off by a kill."""

    @initialize(codec=st.sampled_from(CODECS))
    def begin(self, codec):
        self.folder = tempfile.TemporaryDirectory()
        self.codec, self.round, self.late = codec, 0, None
        self.client, self.coordinator = Client(Path(self.folder.name)), Coordinator(INITIAL)
        self.sent = self.changes = torch.zeros_like(flat(INITIAL))

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def asked(self, *, killed=False):
        task = task_of(self.codec, self.round, self.coordinator.updates)
        return task, *self.client.work(task, killed=killed)

    def taken(self, task, data, change):
        self.sent = self.sent + self.coordinator.take(task, data)
        self.changes = self.changes + change

    @precondition(lambda self: self.late is None)
    @rule()
    def answered(self):
        self.round += 1
        self.taken(*self.asked())

    @precondition(lambda self: self.late is None)
    @rule()
    def refused(self):
        """Its round was closed, or its answer was not taken: the next is asked from before it."""
        self.round += 1
        self.asked()

    @precondition(lambda self: self.late is None)
    @rule()
    def late_to_be(self):
        self.round += 1
        self.late = self.asked()

    @precondition(lambda self: self.late is not None)
    @rule()
    def late_taken(self):
        self.taken(*self.late)
        self.late = None

    @precondition(lambda self: self.late is None)
    @rule(times=st.integers(1, 3))
    def killed_and_asked_again(self, times):
        self.round += 1
        cut = [self.asked(killed=True)[1] for _ in range(times)]
        answer = self.asked()
        assert set(cut) == {answer[1]}, "an answer is the same, however often it was cut off"
        self.taken(*answer)

    @invariant()
    def sent_and_owed_are_the_changes(self):
        if not hasattr(self, "folder") or self.late is not None:
            return
        owed = self.client.owes(self.coordinator.updates)
        off = (self.sent + owed - self.changes).norm()
        assert float(off) <= 1e-6 * max(1.0, float(self.changes.norm()))


TestOwing = Owing.TestCase
TestOwing.settings = settings(max_examples=examples(10), stateful_step_count=10, deadline=None)


@pytest.mark.parametrize("codec", CODECS)
def test_an_answer_that_was_not_taken_costs_nothing_that_is_owed(codec, request):
    """As it was lost: from round 2 on, a refused answer had the component sent back."""
    machine = Owing()
    machine.begin(codec)
    request.addfinalizer(machine.teardown)
    machine.answered()
    owed = machine.client.owes(1)
    machine.refused()
    assert torch.equal(machine.client.owes(1), owed)
    machine.answered()
    machine.sent_and_owed_are_the_changes()
    whole = codec in ("fp32", "auto")  # which takes tensors as small as these whole
    assert whole == (float(owed.norm()) == 0)
