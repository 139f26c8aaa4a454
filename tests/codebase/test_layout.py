"""Folders, their READMEs and `__init__`s, sizes of files, and who may use what of Flower."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("client", "coordinator", "experts", "kernels", "protos", "sims", "strategies")
FOLDERS = (*PACKAGES, "docker", "docs", "tests")
EXPORTING = tuple(
    f"{package}/__init__.py"
    for package in ("client", "coordinator", "experts", "sims", "strategies")
)
"""They export the Python API, lazily; `test_python_api.py` has the rules."""
LONGEST = 400
PUBLIC_FLOWER = ("flwr.app", "flwr.serverapp", "flwr.clientapp")
# Written in pieces, so that this file is not a finding itself. /tmp and the like are anybody's.
MACHINE = re.compile("|".join("/" + name for name in ("home/", "root/", "Users/", "work/", "mnt/")))


def modules(*folders: str) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if not path.stem.endswith(("_pb2", "_pb2_grpc"))
    )


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_has_a_readme(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# ")


def sub_packages(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/__init__.py"))


@pytest.mark.parametrize("folder", PACKAGES)
def test_a_readme_has_one_line_for_each_sub_package(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)) == sub_packages(ROOT / folder)


@pytest.mark.parametrize("folder", PACKAGES)
def test_a_readme_is_no_map_of_files(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `[^|]*\.py`.*$", text, re.MULTILINE) == []


@pytest.mark.parametrize("folder", PACKAGES)
def test_every_package_is_typed_and_linked(folder: str) -> None:
    assert (ROOT / folder / "py.typed").is_file()
    link = ROOT / ".editable" / "fedmore" / folder
    assert link.readlink() == Path("../..") / folder


def test_every_folder_of_modules_has_an_init_but_kernels() -> None:
    folders = {path.parent for path in modules(*PACKAGES)}
    without = [name(folder) for folder in folders if not (folder / "__init__.py").exists()]
    assert [folder for folder in without if folder != "kernels"] == []
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "__init__.py").exists()
    assert not (ROOT / ".editable" / "fedmore" / "__init__.py").exists()


@pytest.mark.parametrize(
    "path",
    [p for p in modules(*PACKAGES) if p.name == "__init__.py" and name(p) not in EXPORTING],
    ids=name,
)
def test_an_init_holds_a_docstring_and_nothing_else(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_no_module_is_long() -> None:
    lengths = {
        name(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in modules(*PACKAGES)
    }
    assert {path: n for path, n in lengths.items() if n > LONGEST} == {}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_flowers_internals_are_used_in_one_module_only() -> None:
    internal = {
        name(path)
        for path in modules(*PACKAGES)
        for module in imported(path)
        if module.split(".")[0] == "flwr"
        and not any(module == p or module.startswith(f"{p}.") for p in PUBLIC_FLOWER)
    }
    assert internal == {"protos/wire/flower_compat.py"}


def test_experts_and_kernels_know_nothing_of_flower() -> None:
    users = [
        name(path)
        for path in modules("experts", "kernels")
        if any(module.split(".")[0] == "flwr" for module in imported(path))
    ]
    assert users == []


def test_no_file_names_a_path_of_somebodys_machine(texts: dict[Path, str]) -> None:
    found = [
        f"{path}:{number}: {line.strip()}"
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE.search(line)
    ]
    assert found == []


def test_the_pattern_for_machine_paths_finds_one() -> None:
    assert MACHINE.search("see /" + "home/ada/texts")
