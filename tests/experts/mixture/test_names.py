"""Names become parts of file names; whatever could leave a folder is none."""

import json
from dataclasses import asdict

import pytest

from fedmore.experts.errors import ConfigError, RegistryError
from fedmore.experts.mixture.checkpoint import FILE, Entry, Recipe, read_recipe, save_mixture
from fedmore.experts.names import check_name
from fedmore.experts.routers.static import UniformRouter

BAD = ["", ".", "..", "../../x", "a/b", "/x", "[/x]", "\x1b[31m", "a b", "a\n", "é", "-x", "x" * 65]
RECIPE = Recipe("base", "f" * 64, {}, ())


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_a_name(name):
    with pytest.raises(ConfigError, match="cannot be a name"):
        check_name(name)


@pytest.mark.parametrize("name", ["gl", "zh-Hant", "law_2.1", "9", "x" * 64])
def test_what_can(name):
    check_name(name)


def test_no_expert_is_written_outside_its_folder(tmp_path):
    with pytest.raises(ConfigError, match="cannot be a name"):
        save_mixture(tmp_path / "mixture", RECIPE, {"../../x": {}}, UniformRouter(1))
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_no_expert_is_read_from_outside_its_folder(tmp_path):
    with pytest.raises(ConfigError, match="cannot be a name"):
        Entry("../../x", "expert", "x", 4, 1, "0" * 64)
    entry = asdict(Entry("x", "expert", "x", 4, 1, "0" * 64)) | {"name": "../../x"}
    (tmp_path / FILE).write_text(json.dumps(asdict(RECIPE) | {"experts": [entry]}))
    with pytest.raises(RegistryError, match=r"damaged .*cannot be a name"):
        read_recipe(tmp_path)
