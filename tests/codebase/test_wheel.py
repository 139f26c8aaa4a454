"""What a wheel and an sdist hold: our packages and nothing else."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("client", "coordinator", "experts", "kernels", "protos", "sims", "strategies")
KINDS = (".py", ".pyi", ".typed", ".proto", ".j2", ".md", ".txt")
AROUND = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", ".gitignore")


@pytest.fixture(scope="module")
def expected(files: list[Path]) -> set[str]:
    """The repository's files below the packages."""
    names = [path.relative_to(ROOT).as_posix() for path in files]
    return {name for name in names if name.split("/")[0] in PACKAGES}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, expected: set[str]) -> Path:
    """A folder with both, made of a copy, so that two tests beside each other do not meet."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in (*expected, *AROUND):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (member,) = (n for n in wheel.namelist() if n.endswith(f".dist-info/{name}"))
    return wheel.read(member).decode()


def test_the_packages_hold_only_kinds_of_file_that_belong_there(expected: set[str]) -> None:
    assert {n for n in expected if PurePosixPath(n).suffix not in KINDS} == set()


def test_a_wheel_holds_our_packages_and_nothing_else(
    wheel: zipfile.ZipFile, expected: set[str]
) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    code = {f"fedmore/{name}" for name in expected}
    assert names == code
    assert "fedmore/__init__.py" not in names  # a namespace
    assert "fedmore/kernels/__init__.py" not in names
    assert {f"fedmore/{package}/py.typed" for package in PACKAGES} <= names
    assert {"fedmore/protos/federation.proto", "fedmore/sims/report/report.html.j2"} <= names


def test_a_wheel_has_the_licence_and_the_programs(wheel: zipfile.ZipFile) -> None:
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = metadata(wheel, "entry_points.txt")
    assert all(f"{name} = {target}" in points for name, target in table["scripts"].items())
    assert f"Version: {table['version']}" in metadata(wheel, "METADATA")


def test_an_sdist_holds_the_packages_and_what_builds_them(built: Path, expected: set[str]) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    extra = {"PKG-INFO", "pyproject.toml", "README.md", "LICENSE", ".gitignore"}
    assert names == expected | extra


def test_a_program_runs_from_the_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import fedmore.coordinator.cli.main as cli; "
        "print(cli.__file__); import fedmore.sims.cli, fedmore.client.cli.main"
    )
    command = [sys.executable, "-I", "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
