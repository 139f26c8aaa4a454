from dataclasses import replace
from pathlib import Path

import pytest

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder import create as inits

FINGERPRINT = "sha256:" + "ab" * 32


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base that only its fingerprint and opener are asked of; no torch in these tests."""

    def fingerprinted(config: FederationConfig, _tell: object = None) -> FederationConfig:
        chosen = replace(config.base, fingerprint=FINGERPRINT, opener="none")
        return replace(config, base=chosen)

    monkeypatch.setattr(inits, "with_fingerprint", fingerprinted)
    monkeypatch.setattr(inits, "with_opener", lambda config, tell: config)
    folder = tmp_path / "base"
    folder.mkdir()
    return folder


@pytest.fixture
def federation(tmp_path: Path, base: Path) -> Path:
    """A fresh federation of two clients on a free port."""
    public = tmp_path / "public.txt"
    public.write_text("Text that anybody may read.", encoding="utf-8")
    config = inits.new_config(
        name="demo",
        base=str(base),
        domains=("legal", "medical"),
        languages=("gl",),
        port=0,
        public_text=str(public),
    )
    directory = tmp_path / "federation"
    inits.create(directory, config)
    return directory
