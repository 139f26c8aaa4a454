import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from flwr.app import ConfigRecord, Message, RecordDict

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.audit_report import read_ledger
from fedmore.client.egress.guard import AuditOnlyGuard
from fedmore.client.hardware.device import Machine
from fedmore.client.joining import join as joins
from fedmore.client.joining.join import join
from fedmore.client.joining.options import JoinOptions, Kind
from fedmore.client.owner.policy import dump_policy
from fedmore.client.state.paths import default_state
from fedmore.coordinator.pki.tls_files import read_tls
from fedmore.coordinator.rpc.server import serve
from fedmore.coordinator.run.lifecycle import info_of
from fedmore.coordinator.store.state_keys import PORT
from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.errors import (
    BaseError,
    ConfigError,
    DataError,
    DeviceError,
    EgressError,
    FedmoreError,
    RankError,
    TokenError,
    TransportError,
)
from fedmore.protos.enrolment.invite import Invite
from fedmore.protos.wire.flower_compat import make_reply

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "inspect_machine", lambda: Machine("Fast CPU", 2, GIB, GIB))


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The node configurations that the ClientApp was made with; it answers with its target."""
    seen: list[dict[str, Any]] = []

    def make_handler(_node_id: int, config: dict[str, Any]) -> Callable[[Message], Message]:
        seen.append(config)
        return lambda task: make_reply(
            task, RecordDict({"c": ConfigRecord({"target": config["target"]})})
        )

    monkeypatch.setattr(joins, "make_handler", make_handler)
    monkeypatch.setattr(joins, "make_guard", lambda _node_id, _config, audit: AuditOnlyGuard(audit))
    return seen


LITTLE = {
    "min_tokens": 1, "min_passages": 1, "min_embedding_tokens": 1, "tokens_per_direction": 0,
}  # fmt: skip
"""The policy of an owner who has one short text."""


@pytest.fixture
def options(hub: Any, tmp_path: Path, tiny: Path) -> JoinOptions:
    data = tmp_path / "data"
    data.mkdir()
    (data / "one.txt").write_text("A private text.")
    policy = tmp_path / "owner.toml"
    policy.write_text(tomlkit.dumps(LITTLE))
    return JoinOptions(
        hub.invite("amt"),
        data,
        "expert",
        "legal",
        rank=4,
        state=tmp_path / "state",
        patience_s=5,
        base=str(tiny),
        policy=policy,
        yes=True,
    )


def work(hub: Any, options: JoinOptions) -> list[str]:
    """Join, be asked one thing, and be let go; what was said meanwhile."""
    said: list[str] = []
    failures: list[BaseException] = []

    def take_part() -> None:
        try:
            joins.take_part(options, said.append)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=take_part)
    thread.start()
    assert hub.queue.wait_for_nodes(1, 30), failures
    grid = TaskGrid(hub.queue, hub.journal)
    tasks = [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]
    (reply,) = grid.send_and_receive(tasks, timeout=20)
    assert reply.content["c"]["target"] == options.target
    hub.server.finish()
    thread.join(20)
    assert not thread.is_alive()
    assert failures == []
    return said


def test_a_client_joins_works_and_is_let_go(
    hub: Any, options: JoinOptions, configs: list[dict[str, Any]], tiny: Path
) -> None:
    said = work(hub, options)
    assert any("1 documents; they stay on this machine" in line for line in said)
    assert said[-1] == "the federation is finished; thank you"
    chosen = hub.federation.config.base
    assert configs[0] == {
        "name": "amt", "kind": "expert", "target": "legal", "rank": 4, "ranks": "",
        "data": str(options.data),
        "base": str(tiny), "dtype": "auto", "device": "cpu", "quantization": "none",
        "opener": chosen.opener, "open_windows": chosen.open_windows,
        "state": str(options.state), "policy": dump_policy(options.rules),
        "column": "text", "encoding": "", "optimizer": "adamw", "gradient_checkpointing": False,
    }  # fmt: skip
    assert [m.name for m in hub.federation.registry.members()] == ["amt"]


def test_who_comes_after_the_end_is_told_so_without_a_coordinator(
    hub: Any, options: JoinOptions, configs: list[dict[str, Any]]
) -> None:
    work(hub, options)
    hub.server.stop()
    said: list[str] = []
    join(options, said.append)
    assert said == ["demo is finished; nothing is left to do for amt"]
    again = replace(options, state=options.state and options.state.parent / "another")
    with pytest.raises(FedmoreError):  # it is not told of others
        join(replace(again, patience_s=0.1), said.append)


@pytest.fixture
def longer(
    hub: Any, options: JoinOptions, configs: list[dict[str, Any]], tmp_path: Path
) -> Iterator[tuple[Any, Path]]:
    """The federation after its end, there again with one round more; and that plan as a file."""
    work(hub, options)
    hub.server.stop()
    config = hub.federation.config
    port = int(hub.federation.registry.get_state(PORT))
    first = replace(config.stages[0], rounds=config.stages[0].rounds + 1)
    config = replace(
        config,
        stages=(first, *config.stages[1:]),
        server=replace(config.server, port=port),
    )
    queue = TaskQueue()
    server = serve(
        hub.federation.registry, hub.journal, queue, config, info_of(config),
        lambda _: None, tls=read_tls(hub.federation.directory),
    )  # fmt: skip
    plan = tmp_path / "longer.json"
    plan.write_text(info_of(config).plan, encoding="utf-8")
    yield replace(hub, server=server, queue=queue), plan
    server.stop()


def test_a_longer_plan_after_the_end_is_shown_agreed_to_and_worked_on(
    longer: tuple[Any, Path], options: JoinOptions
) -> None:
    hub, _ = longer
    said = work(hub, options)
    assert said[0] == "demo was finished and goes on with another plan"
    assert "  changed: experts: rounds is 4, agreed was 3" in said
    assert not [line for line in said if "refused until" in line]
    assert said[-1] == "the federation is finished; thank you"
    hub.server.stop()
    again: list[str] = []
    join(options, again.append)
    assert again == ["demo is finished; nothing is left to do for amt"]


def test_a_longer_plan_after_the_end_can_be_pinned(
    longer: tuple[Any, Path], options: JoinOptions
) -> None:
    hub, plan = longer
    said = work(hub, replace(options, plan=plan, yes=False))
    assert said[-1] == "the federation is finished; thank you"


def test_without_the_owner_s_word_a_longer_plan_is_not_worked_on(
    longer: tuple[Any, Path], options: JoinOptions
) -> None:
    hub, _ = longer
    with pytest.raises(ConfigError, match="needs your consent"):
        join(replace(options, yes=False), lambda _: None)
    assert not hub.queue.nodes()


def refused(hub: Any, options: JoinOptions, error: type[FedmoreError], says: str) -> None:
    """Joining fails clearly, and the invite is still good."""
    with pytest.raises(error, match=says):
        join(options, lambda _: None)
    assert hub.federation.registry.members() == []
    assert [m.name for m in hub.federation.registry.invited()] == ["amt"]


def test_a_missing_gpu_is_refused_before_anything(hub: Any, options: JoinOptions) -> None:
    refused(hub, replace(options, gpu=0), DeviceError, "--gpu 0.*Fast CPU.*no CUDA device")


def test_an_empty_folder_is_refused(hub: Any, options: JoinOptions, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(hub, replace(options, data=tmp_path / "empty"), DataError, "empty")


def test_a_missing_folder_is_refused(hub: Any, options: JoinOptions, tmp_path: Path) -> None:
    refused(hub, replace(options, data=tmp_path / "none"), DataError, "none")


def test_text_that_cannot_be_read_is_refused(hub: Any, options: JoinOptions) -> None:
    (options.data / "two.txt").write_bytes(b"\xff\xfe\x00")
    refused(hub, options, DataError, r"two\.txt")


def test_an_unknown_domain_is_refused_with_the_known_ones(hub: Any, options: JoinOptions) -> None:
    refused(hub, replace(options, target="music"), ConfigError, "'music'.*legal, medical")


@pytest.mark.parametrize(
    ("kind", "target", "limit"), [("expert", "legal", 64), ("adapter", "gl", 32)]
)
def test_a_rank_above_what_the_matrix_allows_is_refused(
    hub: Any, options: JoinOptions, kind: Kind, target: str, limit: int
) -> None:
    high = replace(options, kind=kind, target=target, rank=limit + 1)
    refused(hub, high, RankError, f"rank {limit + 1}.*at most {limit}")


def test_another_base_is_refused_naming_both(
    hub: Any, options: JoinOptions, tmp_path: Path, fingerprint: str
) -> None:
    from fedmore.sims.data.tiny_model import make_tiny_base

    other = make_tiny_base(tmp_path / "other", seed=1)
    refused(hub, replace(options, base=str(other)), BaseError, f"other.*{fingerprint}.*--base")


def test_a_base_that_is_not_here_is_refused(hub: Any, options: JoinOptions, tmp_path: Path) -> None:
    refused(hub, replace(options, base=str(tmp_path)), BaseError, "--base PATH")


@pytest.mark.usefixtures("configs")
def test_a_second_client_of_the_same_name_is_refused(
    hub: Any, options: JoinOptions, tmp_path: Path
) -> None:
    work(hub, options)
    with pytest.raises(TokenError, match="'amt' has been used: a client of that name has joined"):
        join(replace(options, state=tmp_path / "elsewhere"), lambda _: None)


def test_a_coordinator_that_is_not_there_is_named(hub: Any, options: JoinOptions) -> None:
    hub.server.stop()
    said: list[str] = []
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:\d+.*gave up after 0\.3 s"):
        join(replace(options, patience_s=0.3), said.append)
    assert any("trying for up to 0.3 s" in line for line in said)


def test_coming_back_needs_no_new_invite_and_no_rank(
    hub: Any, options: JoinOptions, configs: list[dict[str, Any]]
) -> None:
    with Audit(options.state) as audit:
        joins.enter(options, joins.read_invite(options.invite), options.state, "cpu", audit, print)
    work(hub, replace(options, rank=None))
    assert configs[0]["rank"] == 4
    assert options.state is not None
    (options.state / "finished").unlink()  # as if it had been stopped before the end
    with pytest.raises(ConfigError, match="rank 4"):
        join(replace(options, rank=8), lambda _: None)


@pytest.mark.parametrize(("federation", "name"), [("../../etc", "amt"), ("demo", ".."), ("", "a")])
def test_names_from_a_file_do_not_lead_out_of_the_state_folder(federation: str, name: str) -> None:
    expires = "2026-01-01T00:00:00+00:00"
    with pytest.raises(ConfigError, match="cannot be a name"):
        default_state(Invite(federation, name, "x:1", None, None, None, "t", expires))


def test_everything_that_is_said_is_in_the_audit(
    hub: Any, options: JoinOptions, configs: list[dict[str, Any]]
) -> None:
    assert options.state is not None
    work(hub, options)
    ledger = read_ledger(options.state)
    assert set(ledger.totals) >= {"describe", "enrol", "hello", "reply"}
    assert not ledger.open
    assert [line["type"] for line in ledger.lines if line["call"] == "allowed"] == ["train"]


def test_a_codec_that_there_is_not_is_refused(options: JoinOptions) -> None:
    with pytest.raises(ConfigError, match="--codec zip: there is none; known are fp32"):
        replace(options, codecs=("sign1", "zip"))


def test_too_little_text_is_refused_with_the_floor(hub: Any, options: JoinOptions) -> None:
    short = options.data / "short.jsonl"
    short.write_text("".join(f'{{"text": "note {i}"}}\n' for i in range(30)))
    refused(hub, replace(options, policy=None), EgressError, r"tokens.*fewer than 1024")


def test_a_codec_that_the_owner_does_not_allow_is_refused(hub: Any, options: JoinOptions) -> None:
    refused(hub, replace(options, codecs=("nf4",)), EgressError, "as 'sign1'; the owner allows nf4")


def test_without_consent_nothing_is_used_up(hub: Any, options: JoinOptions) -> None:
    refused(hub, replace(options, yes=False), ConfigError, "needs your consent")
