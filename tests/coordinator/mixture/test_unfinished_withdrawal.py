"""A withdrawal that was killed half-way: what is said of it, and what finishes it."""

import io
import json

import pytest
from contributed import SITES, SPEC, contribution, write_round
from rich.console import Console
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app
from fedmore.coordinator.folder import withdrawals_begun
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.folder.layout import MIXTURE
from fedmore.coordinator.lineage.verification import verify
from fedmore.coordinator.mixture import unfinished_withdrawal, withdrawal
from fedmore.coordinator.mixture.validity import mark_of
from fedmore.coordinator.run import operator_api
from fedmore.coordinator.run.lifecycle import start
from fedmore.coordinator.store.state_keys import DISMISSED, FINISHED, PHASE, RECOVERY_ASKED
from fedmore.experts.errors import RegistryError
from fedmore.experts.mixture.checkpoint import Recipe, save_mixture
from fedmore.experts.routers.static import UniformRouter
from fedmore.strategies.expert_stage.state import fresh
from fedmore.strategies.expert_stage.step import advance


class Killed(BaseException):
    """No handler of ours catches it."""


@pytest.fixture
def trained(federation):
    """A finished federation: legal is a's and b's, and there is a mixture."""
    with open_federation(federation) as opened:
        for name in "ab":
            opened.registry.enrol(opened.registry.invite(name), name, "expert", "legal", 2)
        items = [contribution(name, ord(name)) for name in "ab"]
        state, _ = advance(fresh("legal", "expert", SITES), items, 512)
        write_round(opened, {"legal": state}, 1)
        opened.registry.set_state(PHASE, FINISHED)
        opened.registry.set_state(DISMISSED, True)
    recipe = Recipe("somewhere", "x", SPEC.table(), (), "")
    save_mixture(federation / MIXTURE, recipe, {}, UniformRouter(SPEC))
    return federation


def everything(place):
    with open_federation(place) as opened:
        registry = opened.registry
        return (
            {(row.name, row.round): row.digest for row in registry.experts()},
            [row.metrics for row in registry.rounds()],
            opened.store.digests() <= registry.digests(),
            withdrawals_begun.unfinished(registry),
            (place / MIXTURE / "mixture.json").exists(),
        )


def kill_in(monkeypatch, module, name):
    def dies(*_, **__):
        raise Killed

    monkeypatch.setattr(module, name, dies)


def again(place):
    result = CliRunner().invoke(app, ["withdraw", str(place), "a"])
    assert result.exit_code == 0, result.output
    assert "legal: made anew without it" in result.output


def started(place):
    console = Console(file=io.StringIO(), width=200)
    start(place, console)
    said = console.file.getvalue()
    assert f"{place}: first the withdrawal of a is finished" in said
    assert "this federation is finished" in said


@pytest.mark.parametrize(("finish", "recover"), [(again, 3), (started, 0)])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (withdrawal, "leave_out"),
        (withdrawal, "drop_versions"),
        (withdrawal, "keep_version"),
        (withdrawal, "_replace"),
        (unfinished_withdrawal, "forget_outdated"),
    ],
)
def test_what_was_killed_is_told_and_finished(trained, monkeypatch, module, name, finish, recover):
    with monkeypatch.context() as patched:
        kill_in(patched, module, name)
        with pytest.raises(Killed):
            operator_api.withdraw(trained, "a", "", recover)
    result = CliRunner().invoke(app, ["status", str(trained)], terminal_width=200)
    assert "a has withdrawn and its part is not gone yet" in result.output.replace("\n", " ")
    finish(trained)
    versions, rounds, tidy, left, mixture = everything(trained)
    assert [row["experts"]["legal"]["owners"] for row in rounds] == [["b"]]
    asked = rounds[-1]["experts"]["legal"].get("recovery_rounds", 0)
    assert asked == recover, "as the first command asked"
    assert list(versions) == [("legal", 1)]
    assert (tidy, left, mixture) == (True, [], False)
    with open_federation(trained) as opened:
        (file,) = (trained / "withdrawals").iterdir()
        assert verify(opened).withdrawals == [file], "one valid file"
        removed = json.loads(file.read_text())["content"]["removed"]
        assert [each["expert"] for each in removed["versions"]] == ["legal"]
    assert "withdrawn and its part" not in CliRunner().invoke(app, ["status", str(trained)]).output


def test_an_owner_who_withdraws_when_the_plan_is_over_is_not_forgotten(trained):
    """By its own client, which knows of no folder: there is no next aggregate."""
    with open_federation(trained) as opened:
        opened.registry.withdraw("a")
        assert withdrawals_begun.unfinished(opened.registry) == ["a"]
        assert withdrawals_begun.begun(opened.registry) == []
    started(trained)
    assert everything(trained)[1][-1]["experts"]["legal"]["owners"] == ["b"]


def test_a_mixture_without_the_owner_stays(trained):
    """Withdrawing twice takes nothing away that was made in between."""
    operator_api.withdraw(trained, "a", "")
    with open_federation(trained) as opened:
        mark = mark_of(opened.registry.withdrawn())
    save_mixture(
        trained / MIXTURE, Recipe("somewhere", "x", SPEC.table(), (), mark), {}, UniformRouter(SPEC)
    )
    assert not operator_api.withdraw(trained, "a", "").mixture
    assert (trained / MIXTURE / "mixture.json").exists()


def test_a_name_that_nobody_has_leaves_no_trace(trained):
    before = everything(trained)
    with pytest.raises(RegistryError, match="no member is named 'z'"):
        operator_api.withdraw(trained, "z", "", recover=2)
    assert everything(trained) == before
    with open_federation(trained) as opened:
        assert opened.registry.get_state(RECOVERY_ASKED) is None
        assert opened.registry.get_state(withdrawals_begun.WITHDRAWALS_BEGUN) is None
