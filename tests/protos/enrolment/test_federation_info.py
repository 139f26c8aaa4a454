"""What a federation tells of itself; the run config of a foreign app is plain and bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmore.coordinator.config.schema import parse_config
from fedmore.experts.errors import ConfigError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.federation_info import (
    LONGEST_KEY,
    LONGEST_TEXT,
    MAX_VALUES,
    FederationInfo,
)

keys = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8"), max_size=50),
)


@given(st.dictionaries(keys, values, max_size=8))
def test_what_is_sent_is_heard_with_its_types(config):
    info = FederationInfo("theirs", "", seed=3, run_config=config)
    wire = pb.FederationInfo.FromString(info.to_proto().SerializeToString())
    heard = FederationInfo.from_proto(wire)
    assert heard == info
    assert {k: type(v) for k, v in heard.run_config.items()} == {
        k: type(v) for k, v in config.items()
    }


OUT_OF_BOUNDS = {
    "too many": ({f"k{i}": 1 for i in range(MAX_VALUES + 1)}, "has 129 values"),
    "a long key": ({"k" * (LONGEST_KEY + 1): 1}, "a key is 1 to 128 printable"),
    "no key": ({"": 1}, "a key is 1 to 128 printable"),
    "a control character": ({"a\x1b[2J": 1}, "a key is 1 to 128 printable"),
    "a long text": ({"text": "x" * (LONGEST_TEXT + 1)}, "has a text of 4097 characters at 'text'"),
}


@pytest.mark.parametrize(("config", "fault"), OUT_OF_BOUNDS.values(), ids=OUT_OF_BOUNDS)
def test_both_ends_refuse_what_is_out_of_bounds(config, fault):
    with pytest.raises(WireError, match=fault):
        FederationInfo.from_proto(FederationInfo("theirs", "", run_config=config).to_proto())
    table = {"federation": {"name": "theirs", "app": "server:app", "run_config": config}}
    with pytest.raises(ConfigError, match=r"federation\.run_config|" + fault):
        parse_config(table, "federation.toml")


def test_a_value_of_no_kind_is_refused():
    message = pb.FederationInfo(name="theirs")
    message.run_config["empty"].SetInParent()
    with pytest.raises(WireError, match="no value at 'empty'"):
        FederationInfo.from_proto(message)


def test_a_whole_number_above_64_bits_is_refused_at_the_coordinator():
    table = {"federation": {"name": "f", "app": "server:app", "run_config": {"n": 2**64}}}
    with pytest.raises(ConfigError, match=r"64 bits|integer"):
        parse_config(table, "federation.toml")
