"""A package with plugins, installed as pip would leave it: a module and a `dist-info` folder."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from fedmore.experts.plugins import installed

CODEC = '''
import torch


class Halved:
    """Numbers as float16."""

    tag = "half"

    def size(self, count):
        return 2 * count

    def encode_one(self, tensor):
        return tensor.detach().cpu().half().contiguous().numpy().tobytes()

    def decode_one(self, data, count):
        return torch.frombuffer(bytearray(data), dtype=torch.float16).float()


HALF = Halved()
'''


def lay(
    folder: Path, entries: Mapping[str, str], code: str = "", package: str = "fedmore-extra"
) -> Path:
    """Lay a package with these entry points and a module `extra` of this code below `folder`."""
    place = folder / package
    info = place / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[fedmore.plugins]", *lines, ""]))
    (place / "extra.py").write_text(code)
    return place


class Plugged:
    """Installs packages for one test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch

    def __call__(
        self, entries: Mapping[str, str], code: str = "", package: str = "fedmore-extra"
    ) -> None:
        """Install one with these entry points."""
        place = lay(self._folder, entries, code, package)
        self._monkeypatch.syspath_prepend(str(place))
        forget()

    def codec(self) -> None:
        """Install the codec `half`."""
        self({"codec.half": "extra:HALF"}, CODEC)


def forget() -> None:
    """Have the metadata read again and the module imported again."""
    installed.cache_clear()
    sys.modules.pop("extra", None)


def was_imported() -> bool:
    """Whether the plugin's module was."""
    return "extra" in sys.modules
