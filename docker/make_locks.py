"""Writes docker/locks: what the images install, each with its version and its file's SHA-256.

`python docker/make_locks.py` asks PyPI by pip, which downloads next to nothing: an index gives the
hashes. Run it on Linux on x86-64 with CPython 3.11, as the images are, after constraints.txt was
changed. PyTorch's index has no hashes that pip would report, so the line of the CPU's torch is the
hash of a file: give that file with `--torch-cpu`, or the line stays as it is.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "docker" / "locks"
INDEX = "https://pypi.org/simple"
OF_TORCH = re.compile(r"^(torch|triton|cuda-.*|nvidia-.*)$")
HEAD = "# Made by docker/make_locks.py; pip installs nothing whose file is another.\n"


def requirements() -> tuple[list[str], list[str]]:
    """What a client needs, and what a coordinator needs beside it."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, build = table["project"], table["build-system"]["requires"]
    return [*project["dependencies"], *build], project["optional-dependencies"]["coordinator"]


def resolved(wanted: list[str]) -> dict[str, str]:
    """A line of a lock by package, of all that pip would install."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--only-binary", ":all:", "--index-url", INDEX, "--report", "-"]
    command += ["-c", str(ROOT / "constraints.txt"), *wanted]
    # Whatever this machine's pip is set to, nothing but that index is asked.
    clean = {"PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    done = subprocess.run(command, env=os.environ | clean, stdout=subprocess.PIPE, check=True)
    return lines_of(json.loads(done.stdout))


def lines_of(report: dict[str, Any]) -> dict[str, str]:
    """The lines of pip's report."""
    found = {}
    for each in report["install"]:
        name = re.sub(r"[-_.]+", "-", each["metadata"]["name"]).lower()
        digest = each["download_info"]["archive_info"]["hashes"]["sha256"]
        found[name] = f"{name}=={each['metadata']['version']} --hash=sha256:{digest}\n"
    return found


def write(client: dict[str, str], coordinator: dict[str, str]) -> None:
    """The three locks of what PyPI has."""
    cuda = {name: line for name, line in client.items() if OF_TORCH.match(name)}
    mlflow = {name: line for name, line in coordinator.items() if name not in client}
    rest = {name: line for name, line in client.items() if name not in cuda}
    for file, lines in (("client", rest), ("coordinator", mlflow), ("torch-cuda", cuda)):
        (LOCKS / f"{file}.lock").write_text(
            HEAD + f"--index-url {INDEX}\n" + "".join(line for _, line in sorted(lines.items())),
            encoding="utf-8",
        )


def write_cpu(wheel: Path) -> None:
    """The lock of the CPU's torch, from its file."""
    version = wheel.name.split("-")[1]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (LOCKS / "torch-cpu.lock").write_text(
        f"{HEAD}--index-url https://download.pytorch.org/whl/cpu\n"
        f"torch=={version} --hash=sha256:{digest}\n",
        encoding="utf-8",
    )


def main() -> None:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-cpu", type=Path, help="a wheel of PyTorch's index")
    given = parser.parse_args()
    if given.torch_cpu:
        write_cpu(given.torch_cpu)
    client, more = requirements()
    write(resolved(client), resolved([*client, *more]))


if __name__ == "__main__":
    main()
