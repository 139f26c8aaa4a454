"""A folder of its own for every membership: federations made again, and names that look alike."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmore.client.egress.audit_log import Audit
from fedmore.client.identity.enrolment import enrol, read_invite
from fedmore.client.joining import join as joins
from fedmore.client.joining.join import JoinOptions
from fedmore.client.state.paths import default_state
from fedmore.coordinator.folder.create import create, new_config
from fedmore.coordinator.folder.invites import write_invite
from fedmore.experts.errors import BaseError, ConfigError
from fedmore.protos.enrolment.invite import Invite


def invite_of(name: str = "amt", ca: str | None = "one", federation: str = "demo") -> Invite:
    return Invite(federation, name, "x:1", ca, ca, ca, "t", "2026-01-01T00:00:00+00:00")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def settle(state: Path, invite: Invite) -> None:
    """What an enrolment leaves there, as far as it says whose the folder is."""
    state.mkdir(parents=True)
    table = {"federation": invite.federation, "name": invite.name, "ca": invite.ca}
    (state / "identity.json").write_text(json.dumps(table), encoding="utf-8")


ALIKE = ["site.1", "site_1", "site-1", "site1", "Site_1"]


def test_names_that_look_alike_have_folders_of_their_own() -> None:
    folders = [default_state(invite_of(name)) for name in ALIKE]
    assert len(set(folders)) == len(ALIKE)


def test_a_folder_from_before_is_found_again_by_its_own_member_alone() -> None:
    earlier = default_state(invite_of("site_1"))
    settle(earlier, invite_of("site.1"))
    assert default_state(invite_of("site.1")) == earlier
    assert default_state(invite_of("site_1")) != earlier
    with pytest.raises(ConfigError, match=r"holds the key and the work of 'site\.1'.*--state"):
        joins.check_state(earlier, invite_of("site_1"))


def test_a_federation_made_again_leaves_the_earlier_ones_folder_alone() -> None:
    first, second = invite_of(ca="one"), invite_of(ca="two")
    settle(default_state(first), first)
    again = default_state(second)
    assert again != default_state(first)
    settle(again, second)
    assert default_state(second) == again
    assert default_state(first).name == "amt"
    (default_state(first) / "identity.json").unlink()  # and when the earlier one is gone
    assert default_state(second) == again


@pytest.mark.parametrize("other", [invite_of("bea"), invite_of(ca="two"), invite_of(ca=None)])
def test_a_folder_that_is_anothers_is_refused(tmp_path: Path, other: Invite) -> None:
    settle(tmp_path / "state", invite_of())
    joins.check_state(tmp_path / "state", invite_of())
    with pytest.raises(ConfigError, match="another membership of 'demo'"):
        joins.check_state(tmp_path / "state", other)


def test_an_invite_again_finds_the_members_folder_under_another_authority(tmp_path: Path) -> None:
    first, rolled = invite_of(ca="one"), replace(invite_of(ca="two"), again=True)
    settle(default_state(first), first)
    assert default_state(rolled) == default_state(first)
    joins.check_state(default_state(first), rolled)
    with pytest.raises(ConfigError, match="another membership"):
        joins.check_state(default_state(first), replace(rolled, name="bea"))
    second = invite_of(ca="three")
    settle(default_state(second), second)
    with pytest.raises(ConfigError, match="say with --state which one"):
        default_state(rolled)


def test_a_federation_made_again_uses_neither_the_old_base_nor_the_old_rank(
    hub: Any, tmp_path: Path, tiny: Path
) -> None:
    """The first federation is left as it was; the second has another base, and no coordinator."""
    invite = hub.invite("amt")
    state = default_state(read_invite(invite))
    enrol(read_invite(invite), state, kind="expert", target="legal", rank=4)
    hub.server.stop()
    data = tmp_path / "a.txt"
    data.write_text("Some private text.", encoding="utf-8")
    again = tmp_path / "again"
    create(again, new_config(name="demo", base=str(tiny), domains=("legal",), port=1))
    write_invite(again, "amt", tmp_path / "again.json")
    options = JoinOptions(
        tmp_path / "again.json", data, "expert", "legal", patience_s=0.1, cpu=True
    )
    with pytest.raises(Exception, match=r"127\.0\.0\.1:1 "):  # it is asked what its base is
        joins.take_part(options, lambda _: None)
    known = json.loads((state / "identity.json").read_text(encoding="utf-8"))
    assert known["rank"] == 4
    with pytest.raises(ConfigError, match="another membership"):
        joins.take_part(replace(options, state=state), lambda _: None)
    given = replace(options, invite=invite, base=str(tmp_path))
    with Audit(state) as audit, pytest.raises(BaseError):  # the first one's goes on with its own
        joins.enter(given, read_invite(invite), state, "cpu", audit, print)
