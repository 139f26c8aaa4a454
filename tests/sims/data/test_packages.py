import hashlib
import zipfile

import pytest

from fedmore.experts.errors import DataError
from fedmore.sims.data import packages
from fedmore.sims.data.packages import PACKAGES, Package, fetch


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/data/a.txt", "text")
        archive.writestr("toy/__init__.py", "raise SystemExit")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(PACKAGES, "toy", Package("toy", "1.0", digest, "MIT", ("toy/data/*",)))
    monkeypatch.setenv("FEDMORE_CACHE", str(tmp_path / "cache"))
    return path


def test_only_the_files_we_read_are_extracted_and_once(wheel):
    calls = []

    def download(package, folder):
        calls.append(package.requirement)
        return wheel

    first, second = fetch("toy", download), fetch("toy", download)
    assert first == second
    assert calls == ["toy==1.0"]
    assert [p.name for p in first.rglob("*") if p.is_file()] == ["a.txt"]


def test_another_file_under_the_same_version_is_refused_and_leaves_nothing(wheel, tmp_path):
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"SHA-256 is .*pinned"):
        fetch("toy", lambda *_: wheel)
    assert not (tmp_path / "cache").exists()


def test_a_wheel_without_the_files_is_refused(wheel, monkeypatch, tmp_path):
    pinned = PACKAGES["toy"]
    other = Package("toy", "1.0", pinned.sha256, "MIT", ("elsewhere/*",))
    monkeypatch.setitem(PACKAGES, "toy", other)
    with pytest.raises(DataError, match="holds none of elsewhere"):
        fetch("toy", lambda *_: wheel)
    assert list((tmp_path / "cache/packages").iterdir()) == []


def test_offline_and_missing_says_what_to_do(wheel, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match=r"toy==1\.0 is not in .*fedmore sim fetch quickstart"):
        fetch("toy")


def test_every_pin_is_complete():
    assert all(len(p.sha256) == 64 and p.members and p.licence for p in PACKAGES.values())
    assert [p.name for p in packages._PACKAGES] == list(PACKAGES)
