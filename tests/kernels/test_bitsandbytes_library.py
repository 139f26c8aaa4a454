"""bitsandbytes is imported so that it fetches nothing and says nothing."""

import os
import subprocess
import sys
from pathlib import Path

LIBRARY = """
import logging
logger = logging.getLogger(__name__)
try:
    from kernels import get_kernel
    get_kernel("kernels-community/quantization-bitsandbytes")
except Exception as error:
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s", error)
"""
KERNELS = """
from pathlib import Path
Path({mark!r}).write_text("imported")
def get_kernel(name):
    Path({mark!r}).write_text("fetched")
"""
PROGRAM = """
import sys
from pathlib import Path
from fedmore.kernels.bitsandbytes_library import bitsandbytes
library = bitsandbytes()
assert library is bitsandbytes() is sys.modules["bitsandbytes"]
assert "kernels" not in sys.modules
import kernels  # what else wants it has it
"""


def test_its_import_fetches_nothing_and_says_nothing(tmp_path: Path) -> None:
    """Stand-ins: what bitsandbytes does with AVX-512 BF16, and what `kernels` would."""
    mark = tmp_path / "mark"
    stand_in = tmp_path / "packages" / "bitsandbytes"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text(LIBRARY)
    (stand_in / "functional.py").write_text("")
    (stand_in.parent / "kernels.py").write_text(KERNELS.format(mark=str(mark)))
    program = PROGRAM.replace(
        "import kernels  #", f"assert not Path({str(mark)!r}).exists()\nimport kernels  #"
    )
    path = os.pathsep.join([str(stand_in.parent), *(p for p in sys.path if p)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert mark.read_text() == "imported"
