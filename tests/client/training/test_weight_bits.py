"""The client's part where factors are trained as weights of 1, 2 or 4 bits, on a tiny base."""

import functools

import pytest
import torch
from client_tasks import change_bytes, folder, killed_at_step
from owners import forget_answered, lenient
from stages import OWN_FACTORS
from thinning import rarer_slow

from fedmore.client.client_app import handle
from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.policy_guard import guard_of
from fedmore.client.state.memory import Memory
from fedmore.client.state.reading_position import Reading
from fedmore.client.training import expert_work as apps
from fedmore.client.training.batches import training_windows
from fedmore.experts import factors as low_rank
from fedmore.experts.base.model import shapes_of
from fedmore.experts.errors import EgressError
from fedmore.experts.low_rank_linear import combine, overlay, share, with_change
from fedmore.experts.scoring.bits_per_byte import mean_bits_per_byte, score
from fedmore.kernels.lowbit import cpu as kernel
from fedmore.protos.wire.flower_compat import make_task
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.train import (
    METRICS,
    TRAIN,
    TrainTask,
    read_metrics,
    read_update,
    train_content,
)

NUMBERS = 6 * 3 * 4 * (64 + 176)


@pytest.fixture
def sites(base):
    return task().spec("a").sites(shapes_of(base.model))


def task(number=1, bits=1, **changes):
    stage = ExpertStage(weight_bits=bits, **OWN_FACTORS)
    values = {
        "expert": "kitchen", "kind": "expert", "target": "kitchen", "rank": 4,
        "first_layers": stage.layers[0], "last_layers": stage.layers[1],
        "stage": "experts", "round": number, "rounds": 3, "steps": 4, "batch_size": 2,
        "sequence_length": 32, "learning_rate": 2e-2, "codec": stage.update_codec, "threads": 1,
        "seed": 0, "updates": number - 1, "weight_bits": bits,
    }  # fmt: skip
    return TrainTask(**(values | changes))


def message(made, sites=(), aggregate=None):
    content = train_content(made, sites, "fp32", aggregate)
    return make_task(content, task_id=f"t{made.round}", node_id=5, message_type=TRAIN)


@pytest.fixture
def do(context, sites):
    """Call it with a task: the reply's content."""

    def run(made, aggregate=None):
        return handle(message(made, sites, aggregate), context).content

    return run


def remembered(context):
    return Memory(folder(context)).read("kitchen")


def equal(left, right):
    pairs = ((x, y) for path in left for x, y in zip(left[path], right[path], strict=True))
    return all(torch.equal(x, y) for x, y in pairs)


def farthest(left, right):
    off = low_rank.difference(left, right)
    return max(float(tensor.abs().max()) for pair in off.values() for tensor in pair)


@pytest.mark.parametrize("bits", rarer_slow([1, 2, 4], [1]))
def test_the_loss_falls_and_a_number_is_so_many_bits(do, bits):
    contents = [do(task(number, bits)) for number in (1, 2, 3)]
    metrics = [read_metrics(content, METRICS) for content in contents]
    assert metrics[2]["loss"] < metrics[1]["loss"] < metrics[0]["loss"]
    assert metrics[0]["numbers"] == NUMBERS
    assert len(change_bytes(contents[0])) == NUMBERS * bits // 8 + 36 * 8


@pytest.mark.slow
def test_one_bit_is_better_trained_than_rounded(do, context, base):
    """By what both ends hold, on text that was not trained on; the figures are in the README."""

    def bits_per_byte(factors):
        model = with_change(base.model, combine([(factors, task().spec("a").scale)]))
        return mean_bits_per_byte(score(model, base.text, ["wait 77 minutes, then stir."], 64))

    for number in (1, 2, 3):
        do(task(number, 0, steps=8, codec="fp32"))
    numbers = remembered(context).component
    for number in (1, 2, 3):
        forget_answered(context)
        do(task(number, steps=8))
    rounded = {p: (kernel.quantise(b, 1), kernel.quantise(a, 1)) for p, (b, a) in numbers.items()}
    untrained = bits_per_byte(low_rank.zeros(numbers))
    trained = bits_per_byte(remembered(context).component)
    assert trained < bits_per_byte(rounded) < untrained
    assert trained < untrained - 0.8 * (untrained - bits_per_byte(numbers))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_coordinator_reads_what_the_client_holds_bit_for_bit(do, context, sites, bits):
    for number in (1, 2):
        content = do(task(number, bits))
        entry = remembered(context)
        assert equal(
            read_update(content, sites, dict.fromkeys([s.path for s in sites], 4), f"bits{bits}"),
            entry.component,
        )
        assert all(t.unique().numel() <= 2**bits for p in entry.component.values() for t in p)
        assert entry.updates == number


def test_what_both_ends_hold_is_what_the_forward_pass_used(do, context, base, sites):
    do(task(1))
    do(task(2))
    entry = remembered(context)
    latent = low_rank.total(entry.component, entry.residual)
    used = {p: (kernel.quantise(b, 1), kernel.quantise(a, 1)) for p, (b, a) in latent.items()}
    assert farthest(used, entry.component) < 1e-6
    assert farthest(latent, entry.component) > 1e-2
    models = []
    for factors, bits in ((latent, 1), (entry.component, 0)):
        models.append(share(base.model))
        for path, layer in overlay(models[-1], None, sites).items():
            layer.trainable(factors[path], 2.0, bits)
    ids = torch.arange(40).view(2, 20)
    left, right = (model(input_ids=ids).logits for model in models)
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def test_training_goes_on_from_the_latent_numbers(do, context):
    do(task(1))
    store, entry = Memory(folder(context)), remembered(context)
    carried = change_bytes(do(task(2)))
    store.write("kitchen", apps.Remembered(
        entry.component, low_rank.zeros(entry.residual), entry.updates, entry.task, entry.answer,
        entry.metrics,
    ))  # fmt: skip
    assert change_bytes(do(task(2))) != carried


def test_the_own_component_is_not_counted_twice(do, sites, monkeypatch, context):
    """Where others contribute, training starts at the aggregate, whatever was done before."""
    torch.manual_seed(0)
    aggregate = {
        s.path: (torch.randn(s.out_features, 5) * 0.2, torch.randn(5, s.in_features) * 0.2)
        for s in sites
    }
    monkeypatch.setattr(
        apps, "training_windows", lambda *given: training_windows(*given[:2], Reading(), 0)
    )  # alike
    new = read_metrics(do(task(2, steps=1, updates=0), aggregate), METRICS)["loss"]
    for number in (1, 2):
        forget_answered(context)
        do(task(number, steps=8, learning_rate=5e-2))
    forget_answered(context)
    old = read_metrics(do(task(3, steps=1, round=2), aggregate), METRICS)["loss"]
    assert old == pytest.approx(new, abs=1e-3)
    forget_answered(context)
    alone = read_metrics(do(task(4, steps=1, round=2)), METRICS)["loss"]
    assert abs(alone - new) > 0.05


def test_a_task_that_was_killed_ends_with_the_same_bytes(do, monkeypatch, context):
    whole = change_bytes(do(task()))
    for file in folder(context).iterdir():
        file.unlink()
    steps = killed_at_step(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        do(task())
    assert change_bytes(do(task())) == whole
    assert steps == [1, 2, 3, 4]


def test_a_checkpoint_of_other_bits_is_not_gone_on_from(do, monkeypatch, context):
    expected = change_bytes(do(task(bits=2)))
    for file in folder(context).iterdir():
        file.unlink()
    forget_answered(context)
    often = functools.partial(apps.Checkpoints, interval_s=0, share=float("inf"))
    monkeypatch.setattr(apps, "Checkpoints", often)
    monkeypatch.setattr(apps.progress, "report", cut := Cut())
    with pytest.raises(KeyboardInterrupt):
        do(task(bits=1))
    forget_answered(context)
    assert change_bytes(do(task(bits=2))) == expected
    assert cut.steps == [1, 2, 3, 1, 2, 3, 4]


class Cut:
    """Ends the first training at its third step."""

    def __init__(self):
        self.steps = []

    def __call__(self, step, *_):
        self.steps.append(step)
        if len(self.steps) == 3:
            raise KeyboardInterrupt


def test_a_federation_may_change_to_bits_and_back(do, context, sites):
    """Weights come whole and changes go on from what both ends hold, so either follows either."""
    do(task(1, 0))
    do(task(2, 1))
    held = remembered(context).component
    change = read_update(do(task(3, 0)), sites, 4, "sign1")
    assert remembered(context).updates == 3
    assert equal(low_rank.total(held, change), remembered(context).component)


def test_the_contract_knows_the_size_and_the_owner_may_say_no(do, context, tmp_path):
    guard = guard_of(5, dict(context.node_config), Audit(tmp_path / "audit"))
    asked = message(task())
    reply = handle(asked, context)
    assert guard.check_task(asked)(reply) is reply
    reply.content.array_records["update"]["change"].data += b"\0"
    with pytest.raises(EgressError, match="update/change is not"):
        guard.check_task(asked)(reply)
    refusing = guard_of(
        5, context.node_config | {"policy": lenient(codecs=("sign1",))}, Audit(tmp_path / "other")
    )
    with pytest.raises(EgressError, match="asked for an update as 'bits1'; the owner allows sign1"):
        refusing.check_task(asked)
