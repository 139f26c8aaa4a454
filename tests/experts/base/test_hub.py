"""Without a network the answer comes at once, and what is in the cache still loads."""

import os
import subprocess
import sys
import time

import pytest

from fedmore.experts.base import hub
from fedmore.experts.errors import BaseError


@pytest.fixture
def online(monkeypatch, tmp_path):
    """As on a machine with a network, an empty cache and no proxy."""
    for name in (hub.OFFLINE, "HF_ENDPOINT", *hub.PROXIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return monkeypatch


def unreachable(host, port):
    raise OSError(113, "No route to host")


def test_a_name_without_a_network_is_one_line(online):
    with pytest.raises(BaseError) as caught:
        hub.reach("org/model", unreachable)
    text = str(caught.value)
    assert "huggingface.co cannot be reached (No route to host)" in text
    assert "\n" not in text
    assert os.environ[hub.OFFLINE] == "1"


def test_what_is_in_the_cache_loads_offline(online, tmp_path):
    online.setattr(hub, "cached", lambda name: name == "org/model")
    hub.reach("org/model", unreachable)
    assert os.environ[hub.OFFLINE] == "1"


@pytest.mark.parametrize("case", ["a folder", "offline", "a hub"])
def test_nothing_changes_where_a_hub_is_not_needed_or_there(online, tmp_path, case):
    asked = []
    if case == "offline":
        online.setenv(hub.OFFLINE, "1")
    online.setenv("HF_ENDPOINT", "http://mirror.example:8080")
    name = str(tmp_path) if case == "a folder" else "org/model"
    hub.reach(name, lambda *where: asked.append(where))
    assert asked == ([("mirror.example", 8080)] if case == "a hub" else [])
    assert os.environ.get(hub.OFFLINE) == ("1" if case == "offline" else None)


@pytest.mark.parametrize("name", ["no/such/path", "/nope/model", "./nope", "../a/b", "/"])
def test_a_path_that_is_not_there_is_called_one(online, name):
    """And not a "repo id" of the wrong form."""
    with pytest.raises(BaseError, match="neither a directory nor a model on the hub") as caught:
        hub.reach(name, unreachable) if name != "/" else hub.cached(name)
    assert "epo id" not in str(caught.value)
    assert repr(name) in str(caught.value)


DOORS = {
    "http://proxy:3128": ("proxy", 3128),
    "proxy:3128": ("proxy", 3128),
    "http://user:word@proxy": ("proxy", 80),
    "https://proxy": ("proxy", 443),
    "socks5://proxy": ("proxy", 1080),
}


@pytest.mark.parametrize("proxy", DOORS)
def test_the_way_to_a_hub_begins_at_the_proxy(online, proxy):
    """One that is not there is known in seconds too; behind one that is, the hub is asked."""
    asked = []
    online.setenv("https_proxy", proxy)
    hub.reach("org/model", lambda *where: asked.append(where))
    assert asked == [DOORS[proxy]]
    assert hub.OFFLINE not in os.environ
    with pytest.raises(BaseError, match=r"proxy cannot be reached \(No route to host\)"):
        hub.reach("org/model", unreachable)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["HF_ENDPOINT", "HTTPS_PROXY"])
def test_preflight_without_a_network_answers_in_seconds(tmp_path, way):
    """The hub, or the proxy before it, is a port of this machine that nobody listens on."""
    environment = {k: v for k, v in os.environ.items() if k not in (hub.OFFLINE, *hub.PROXIES)}
    environment |= {way: "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "fedmore.client.cli.main", "preflight", "--base", "org/model"]
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 6, done.stderr
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - began < 90  # its retries alone would take 31 s, four times over
