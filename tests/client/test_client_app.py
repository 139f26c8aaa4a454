"""The ClientApp, task by task, on a tiny base."""

import pytest
import torch
from client_tasks import change_bytes, folder, killed_at_step
from flwr.app import Context, RecordDict
from owners import forget_answered

from fedmore.client.client_app import handle
from fedmore.client.state.memory import Memory
from fedmore.client.state.reading_position import Reading
from fedmore.client.training import expert_work as apps
from fedmore.client.training.batches import training_windows
from fedmore.experts import factors as low_rank
from fedmore.experts.base.model import shapes_of
from fedmore.experts.errors import DataError, EgressError, RankError, WireError
from fedmore.protos.wire.flower_compat import make_task
from fedmore.strategies.members import HELLO
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.train import (
    METRICS,
    TRAIN,
    TrainTask,
    read_metrics,
    read_update,
    train_content,
)


def task(number=1, **changes):
    stage = ExpertStage()
    values = {
        "expert": "kitchen", "kind": "expert", "target": "kitchen", "rank": 4,
        "first_layers": stage.layers[0], "last_layers": stage.layers[1],
        "stage": "experts", "round": number, "rounds": 3, "steps": 4, "batch_size": 2,
        "sequence_length": 32, "learning_rate": 2e-2, "codec": "sign1", "threads": 1, "seed": 0,
        "updates": number - 1,
    }  # fmt: skip
    return TrainTask(**(values | changes))


@pytest.fixture
def do(context, base):
    """Call it with a task: the reply's content."""

    def run(made, aggregate=None, codec="fp32"):
        sites = made.spec("a").sites(shapes_of(base.model))
        content = train_content(made, sites, codec, aggregate)
        message = make_task(content, task_id=f"t{made.round}", node_id=5, message_type=TRAIN)
        return handle(message, context).content

    return run


def state_files(context):
    return {f.name: f.read_bytes() for f in folder(context).glob("*")}


def test_another_federation_of_the_same_name_starts_afresh(do, context):
    do(task(1))
    again = Context(1, context.node_id + 1, context.node_config, RecordDict(), {})
    assert state_files(context)
    assert not state_files(again)


def test_the_loss_falls_over_rounds(do):
    losses = [read_metrics(do(task(number)), METRICS)["loss"] for number in (1, 2, 3)]
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("codec", ["sign1", "bf16", "fp32"])
def test_what_is_sent_moves_the_mirror_as_the_memory_says(do, context, base, codec):
    """Start plus every decoded update is what the client remembers: the coordinator's mirror."""
    spec = task().spec("a")
    sites = spec.sites(shapes_of(base.model))
    mirror = low_rank.initial(spec, sites, 0)
    for number in (1, 2):
        content = do(task(number, codec=codec))
        mirror = low_rank.total(
            mirror, read_update(content, sites, dict.fromkeys([s.path for s in sites], 4), codec)
        )
        entry = Memory(folder(context)).read("kitchen")
        assert entry.updates == number
        for path, pair in mirror.items():
            assert all(torch.equal(x, y) for x, y in zip(pair, entry.component[path], strict=True))
    owed = max(float(t.abs().max()) for pair in entry.residual.values() for t in pair)
    assert (owed > 0) == (codec != "fp32")


def test_metrics(do, texts):
    content = do(task())
    metrics = read_metrics(content, METRICS)
    assert metrics["tokens"] == 4 * 2 * 32
    assert 1 < metrics["documents"] <= len(texts)
    whole = sum(len(text) + 1 for text in texts)  # bytes, and what opens each
    assert metrics["epochs"] == round(4 * 2 * 32 / whole, 2)
    assert metrics["payload_bytes"] == len(change_bytes(content))
    assert metrics["numbers"] == 6 * 3 * 4 * (64 + 176)
    assert 4 * metrics["numbers"] / metrics["payload_bytes"] > 28


def test_the_same_task_again_gives_the_same_bytes_without_training(do, monkeypatch, context):
    first = do(task())
    before = state_files(context)
    monkeypatch.setattr(apps, "train", None)
    again = do(task())
    assert change_bytes(again) == change_bytes(first)
    assert read_metrics(again, METRICS) == read_metrics(first, METRICS)
    assert state_files(context) == before


OTHERWISE = {
    "other steps": {"steps": 2},
    "another learning rate": {"learning_rate": 1e-2},
    "another codec": {"codec": "fp32"},
    "another number of windows": {"batch_size": 1},
    "another seed": {"seed": 5},
}


@pytest.mark.parametrize("changes", OTHERWISE.values(), ids=OTHERWISE)
def test_a_round_is_answered_once(do, context, changes):
    """The difference of two answers would show what only one of them was made of."""
    do(task(1))
    old = change_bytes(do(task(2)))
    with pytest.raises(EgressError, match="asked for round experts/2 a second time"):
        do(task(2, **changes))
    assert Memory(folder(context)).read("kitchen").updates == 2
    assert change_bytes(do(task(2))) == old


def test_a_round_with_another_aggregate_is_another_task(do, base):
    sites = task().spec("a").sites(shapes_of(base.model))
    torch.manual_seed(0)
    aggregate = {
        s.path: (torch.randn(s.out_features, 2), torch.randn(2, s.in_features)) for s in sites
    }
    first = change_bytes(do(task(), aggregate))
    halved = {path: (b / 2, a) for path, (b, a) in aggregate.items()}
    with pytest.raises(EgressError, match="a second time"):
        do(task(), halved)
    assert change_bytes(do(task(), aggregate)) == first


def test_a_task_that_was_killed_goes_on_and_ends_with_the_same_bytes(do, monkeypatch, context):
    whole = change_bytes(do(task()))
    for file in folder(context).iterdir():
        file.unlink()
    steps = killed_at_step(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        do(task())
    assert list(state_files(context)) == ["kitchen.checkpoint.safetensors"]
    assert change_bytes(do(task())) == whole
    assert steps == [1, 2, 3, 4]
    assert list(state_files(context)) == ["kitchen.component.safetensors"]


def test_the_residual_is_carried_into_the_next_update(do, context):
    do(task(1))
    store = Memory(folder(context))
    entry = store.read("kitchen")
    carried = change_bytes(do(task(2)))
    nothing = {p: (b * 0, a * 0) for p, (b, a) in entry.residual.items()}
    store.write("kitchen", apps.Remembered(
        entry.component, nothing, entry.updates, entry.task, entry.answer, entry.metrics
    ))  # fmt: skip
    assert change_bytes(do(task(2))) != carried


def test_the_aggregate_is_what_training_starts_from(do, base, context):
    alone = read_metrics(do(task()), METRICS)["loss"]
    sites = task().spec("a").sites(shapes_of(base.model))
    torch.manual_seed(0)
    aggregate = {
        s.path: (torch.randn(s.out_features, 5) * 0.2, torch.randn(5, s.in_features) * 0.2)
        for s in sites
    }
    forget_answered(context)
    do_again = task(1, round=1)
    assert abs(read_metrics(do(do_again, aggregate), METRICS)["loss"] - alone) > 0.01


def test_training_goes_on_from_what_the_client_still_owes_too(do, context):
    """EF21: the start is the mirrored component and the residual."""
    do(task(1))
    store = Memory(folder(context))
    entry = store.read("kitchen")
    owed = read_metrics(do(task(2, steps=1)), METRICS)["loss"]
    nothing = {p: (b * 0, a * 0) for p, (b, a) in entry.residual.items()}
    store.write("kitchen", apps.Remembered(
        entry.component, nothing, entry.updates, entry.task, entry.answer, entry.metrics
    ))  # fmt: skip
    assert read_metrics(do(task(2, steps=1)), METRICS)["loss"] != owed


def test_the_own_component_is_not_counted_twice(do, context, base, monkeypatch):
    """The aggregate holds it already: what a client did before does not move where it starts.

    But for what it still owes, which is nothing with fp32.
    """
    sites = task().spec("a").sites(shapes_of(base.model))
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
        do(task(number, steps=8, learning_rate=5e-2, codec="fp32"))
    forget_answered(context)
    old = read_metrics(do(task(3, steps=1, round=2), aggregate), METRICS)["loss"]
    assert old == pytest.approx(new, abs=1e-3)
    forget_answered(context)
    alone = read_metrics(do(task(4, steps=1, round=2)), METRICS)["loss"]
    assert abs(alone - new) > 0.05


def test_an_aggregate_with_a_matrix_of_rank_0(do, base):
    sites = task().spec("a").sites(shapes_of(base.model))
    aggregate = low_rank.empty(sites) | {
        sites[0].path: (torch.randn(sites[0].out_features, 2), torch.randn(2, sites[0].in_features))
    }
    assert read_metrics(do(task(), aggregate, codec="bf16"), METRICS)["tokens"] > 0


def test_lost_state_begins_anew(do, context):
    """Nothing that it begins from comes from the coordinator, which has heard of the loss."""
    first = change_bytes(do(task(1)))
    for file in folder(context).iterdir():
        file.unlink()
    with pytest.raises(WireError, match="kitchen: this client knows 0 of its 1 updates"):
        do(task(2))
    forget_answered(context)
    assert change_bytes(do(task(1))) == first
    assert Memory(folder(context)).read("kitchen").updates == 1


def test_a_client_that_is_ahead_starts_over(do, context):
    do(task(1))
    do(task(2))
    with pytest.raises(WireError, match="knows 2 of its 5 updates"):
        do(task(3, updates=5))
    forget_answered(context)
    do(task(3, updates=0))
    assert Memory(folder(context)).read("kitchen").updates == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "garden"},
        {"rank": 8},
        {"kind": "adapter"},
        {"expert": "../../outside"},
        {"expert": "garden"},
    ],
)
def test_only_what_the_owner_chose_is_trained(do, context, changes):
    with pytest.raises(EgressError, match="the owner of this client chose"):
        do(task(**changes))
    assert state_files(context) == {}


def test_a_rank_above_the_matrix_is_refused(do, context):
    context.node_config["rank"] = 65
    made = task(rank=65)
    content = train_content(made, (), "fp32", None)
    message = make_task(content, task_id="t", node_id=5, message_type=TRAIN)
    with pytest.raises(RankError, match="at most 64"):
        handle(message, context)


def test_damaged_memory_is_told(do, context):
    do(task())
    file = folder(context) / "kitchen.component.safetensors"
    file.write_bytes(b"x")
    with pytest.raises(DataError, match="damaged"):
        do(task(2))


def hello(context):
    message = make_task(RecordDict(), task_id="h", node_id=5, message_type=HELLO)
    return dict(handle(message, context).content.config_records["member"])


def test_hello(do, context, texts):
    size = sum(len(text.encode()) for text in texts)
    expected = {"name": "a", "kind": "expert", "target": "kitchen", "rank": 4, "size": size}
    assert hello(context) == {**expected, "experts": [], "updates": [], "mirrors": []}
    do(task(1))
    known = {"experts": ["kitchen"], "updates": [1], "mirrors": [0]}
    assert hello(context) == expected | known


def test_hello_without_text_says_why(context, tmp_path):
    context.node_config["data"] = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such file"):
        hello(context)
