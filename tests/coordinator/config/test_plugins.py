"""A plugin's names in `federation.toml`: known from its metadata, imported before a plan begins."""

import pytest
from plugged import CODEC, was_imported

from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.config.validation import check_plan
from fedmore.experts.errors import ConfigError

PLACES = {
    "codec": ("stages", {"kind": "experts", "codec": "half"}),
    "download_codec": ("stages", {"kind": "experts", "download_codec": "auto,matrix=half"}),
    "aggregation": ("stages", {"kind": "experts", "aggregation": "half"}),
    "router": ("router", {"kind": "half"}),
    "stage": ("stages", {"kind": "half"}),
}
NAMED = [place for place in PLACES if place != "stage"]
"""Where a name is only a name until the plan begins; a stage's settings are the plugin's own."""
ENTRIES = {f"{table}.half": "extra:HALF" for table in ("codec", "aggregation", "router", "stage")}


def config_with(place, base="", name="half"):
    section, table = PLACES[place]
    table = {key: value.replace("half", name) for key, value in table.items()}
    stages = [table] if section == "stages" else [{"kind": "experts"}]
    router = table if section == "router" else {"kind": "uniform"}
    return parse_config(
        {
            "federation": {"name": "f"},
            "base": {"model": base or "b"},
            "stages": stages,
            "router": router,
        },
        "federation.toml",
    )


@pytest.mark.parametrize("place", NAMED)
def test_a_plugins_name_is_taken_and_an_unknown_one_refused_with_those_there_are(plugged, place):
    plugged(ENTRIES, CODEC)
    config_with(place)
    assert not was_imported()
    with pytest.raises(ConfigError, match=r"(stages\[0\]|router).*twice.*half"):
        config_with(place, name="twice")


@pytest.mark.parametrize("place", PLACES)
def test_one_that_cannot_be_imported_stops_a_plan_before_it_begins(plugged, tmp_path, place):
    plugged(ENTRIES, "import nowhere")
    with pytest.raises(ConfigError, match=r"half \(fedmore-extra 1\.0\).*cannot be loaded"):
        check_plan(config_with(place, base=str(tmp_path)))


def test_one_that_is_installed_and_not_used_is_not_imported(plugged, tmp_path):
    plugged(ENTRIES, "import nowhere")
    check_plan(config_with("router", base=str(tmp_path), name="uniform"))
