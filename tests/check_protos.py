"""Fail unless the committed stubs are what `make protos` generates from the schema."""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EDITABLE = ROOT / ".editable"
PACKAGE = "fedmore/protos"


def generate(into: Path) -> None:
    """Run protoc as the Makefile does, but into another folder."""
    outputs = [f"--{kind}_out={into}" for kind in ("python", "pyi", "grpc_python")]
    schemas = [f"{PACKAGE}/{path.name}" for path in sorted((ROOT / "protos").glob("*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.editable", *outputs, *schemas]
    subprocess.run(command, check=True, cwd=ROOT)


def differences(generated: Path) -> list[str]:
    """Names of stubs that are missing, stale or left over."""
    fresh = {p.name: p.read_bytes() for p in generated.glob("*_pb2*.py*")}
    committed = {p.name: p.read_bytes() for p in (EDITABLE / PACKAGE).glob("*_pb2*.py*")}
    names = fresh.keys() | committed.keys()
    return sorted(name for name in names if fresh.get(name) != committed.get(name))


def main() -> int:
    """Exit code 1 and the names of the stubs where they differ."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        different = differences(Path(folder) / PACKAGE)
    if different:
        sys.stderr.write(f"out of date: {', '.join(different)}; run `make protos`\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
