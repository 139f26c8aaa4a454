"""Who may enrol for what."""

from types import SimpleNamespace

import pytest

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.config.sections import BaseSection, FederationSection
from fedmore.coordinator.rpc.admission import check_enrolment, check_unmixed
from fedmore.experts.errors import BaseError, ConfigError, RankError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.federation_info import FederationInfo

INFO = FederationInfo("fed", "base", fingerprint="f" * 64)
OPEN = FederationConfig(FederationSection("fed"), BaseSection("base"))
NAMED = FederationConfig(
    FederationSection("fed", domains=("legal",), languages=("gl",)), BaseSection("base")
)
APP = FederationConfig(FederationSection("fed", app="theirs:app"))


def ask(config, **fields):
    return check_enrolment(pb.EnrolRequest(**fields), config, INFO)


@pytest.mark.parametrize(
    ("config", "fields", "error", "says"),
    [
        (NAMED, {"kind": "poet", "target": "legal", "rank": 4}, ConfigError, "not 'poet'"),
        (NAMED, {"kind": "expert", "target": "gl", "rank": 4}, ConfigError, "there are: legal"),
        (NAMED, {"kind": "adapter", "target": "legal", "rank": 4}, ConfigError, "there are: gl"),
        (NAMED, {"kind": "expert", "target": "legal", "rank": 0}, RankError, "from 1 to"),
        (NAMED, {"kind": "expert", "target": "legal", "rank": 2**40}, RankError, "from 1 to"),
        *(
            (OPEN, {"kind": "expert", "target": target, "rank": 4}, ConfigError, "cannot be a name")
            for target in ("x" * 65, "", "[/x]", "\x1b[31m", "../../x", "a/b", "a b", "-x", "é")
        ),
        (NAMED, {"kind": "app"}, ConfigError, "trains experts and adapters"),
        (APP, {"kind": "expert", "target": "legal", "rank": 4}, ConfigError, "'theirs:app'"),
        (APP, {"kind": "app", "rank": 1}, RankError, "rank 0"),
        (APP, {"kind": "app", "target": "x"}, ConfigError, "trains no 'x'"),
    ],
)
def test_what_there_is_no_place_for_is_refused(config, fields, error, says):
    with pytest.raises(error, match=says):
        ask(config, **fields)


MEMBERS = [
    SimpleNamespace(kind="expert", target="legal"),
    SimpleNamespace(kind="adapter", target="gl"),
    SimpleNamespace(kind="app", target=None),
]


@pytest.mark.parametrize(
    ("kind", "target"), [("expert", "gl"), ("adapter", "legal"), ("expert", "Legal")]
)
def test_a_name_stands_for_one_thing_where_any_may_be_trained(kind, target):
    assert ask(OPEN, kind=kind, target=target, rank=4) == kind
    with pytest.raises(ConfigError, match="needs a name of its own"):
        check_unmixed(kind, target, MEMBERS)
    check_unmixed("expert", "legal", MEMBERS)
    check_unmixed("adapter", "pt", MEMBERS)


def test_the_bases_own_name_is_nobodys():
    with pytest.raises(ConfigError, match="'Public' is the base's own name"):
        ask(OPEN, kind="expert", target="Public", rank=4)


def test_another_base_is_refused():
    with pytest.raises(BaseError, match="same weights"):
        ask(OPEN, kind="expert", target="any", rank=4, fingerprint="0" * 64)


def test_what_there_is_a_place_for_is_let_in():
    assert ask(NAMED, kind="expert", target="legal", rank=4) == "expert"
    assert ask(NAMED, kind="adapter", target="gl", rank=65_536) == "adapter"
    assert ask(OPEN, kind="expert", target="any", rank=1, fingerprint="f" * 64) == "expert"
    assert ask(APP, kind="app") == "app"
