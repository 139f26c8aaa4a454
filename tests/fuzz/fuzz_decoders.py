"""The decoders of `targets.py` under atheris, which looks for new paths through the code.

By hand, for as long as one likes; atheris is not a dependency, install it where this is run::

    python tests/fuzz/fuzz_decoders.py -max_total_time=600 CORPUS_FOLDER
"""

import contextlib
import io
import logging
import runpy
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Fuzz; the first byte of an input chooses the target."""
    import atheris

    logging.disable()
    with atheris.instrument_imports(include=["fedmore", "flwr"]):
        found = runpy.run_path(str(Path(__file__).with_name("targets.py")))
    names, try_one = sorted(found["TARGETS"]), found["try_one"]
    folders = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    corpus = folders[0] if folders else Path(tempfile.mkdtemp(prefix="corpus-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for name, data in found["seeds"]().items():
        (corpus / f"seed-{name}").write_bytes(bytes([names.index(name)]) + data)

    def one(data: bytes) -> None:
        if data:
            with contextlib.redirect_stdout(io.StringIO()):
                try_one(names[data[0] % len(names)], data[1:])

    atheris.Setup(sys.argv if folders else [*sys.argv, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
