"""A federation whose registry is elsewhere: `coordinator init --database`, FEDMORE_DATABASE."""

import pytest

from fedmore.coordinator.folder import create as inits
from fedmore.coordinator.folder.federation import DATABASE, open_federation
from fedmore.coordinator.store.registry import FILE, Registry
from fedmore.experts.errors import ConfigError

POSTGRES = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


def config_at(base, url):
    return inits.new_config(name="demo", base=str(base), domains=("legal",), database=url)


@POSTGRES
def test_the_registry_is_where_the_configuration_says(base, tmp_path, url):
    inits.create(tmp_path / "federation", config_at(base, url))
    assert not (tmp_path / "federation" / FILE).exists()
    with open_federation(tmp_path / "federation") as opened, Registry(url) as other:
        opened.registry.set_state("x", 1)
        assert other.get_state("x") == 1
        assert opened.registry.database.shared


@POSTGRES
def test_the_environment_comes_first(base, tmp_path, url, monkeypatch):
    monkeypatch.setenv(DATABASE, url)
    inits.create(tmp_path / "federation", config_at(base, ""))
    assert not (tmp_path / "federation" / FILE).exists()
    with open_federation(tmp_path / "federation") as opened:
        assert opened.registry.database.shared


@POSTGRES
def test_a_database_of_another_federation_is_refused(base, tmp_path, url):
    inits.create(tmp_path / "one", config_at(base, url))
    with open_federation(tmp_path / "one") as opened:
        opened.registry.invite("ada")
    with pytest.raises(ConfigError, match="holds a federation already"):
        inits.create(tmp_path / "two", config_at(base, url))
    assert not (tmp_path / "two" / "federation.toml").exists()


def test_a_password_in_the_url_is_refused_and_not_repeated(base, tmp_path):
    config = config_at(base, "postgresql+psycopg://me:hidden@host/name")
    with pytest.raises(ConfigError, match="PGPASSWORD") as caught:
        inits.create(tmp_path / "federation", config)
    assert "hidden" not in str(caught.value)
    assert not (tmp_path / "federation" / "federation.toml").exists()
