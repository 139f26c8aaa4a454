import gc
import os
import signal
import sys
import warnings
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not Path("/dev/nvidiactl").exists():
    # tests/kernels runs Triton kernels on the CPU; triton must never be imported without this.
    os.environ["TRITON_INTERPRET"] = "1"

with warnings.catch_warnings():
    # typer 0.20, which flwr imports, uses names that click 8.5 deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer  # noqa: F401

import pytest
from hypothesis import HealthCheck, settings

# Hundreds of test modules, and ours in each process of the tests, are compiled once on a machine.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A shell starts what runs in the background deaf to Ctrl-C; programs of the tests must hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine draws slowly; that is no fault of a test.
settings.register_profile("any machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_finish():
    """What is imported and collected by now stays: the garbage collector need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory):
    """No test writes into the state folder of the user who runs it."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state-home"))


@pytest.fixture(autouse=True)
def _one_thread():
    """Torch works in one thread, and draws the same random numbers in every run."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder of a base, to be read only: d 64, h 176, 6 blocks, k and v of 32; 0.3M numbers."""
    from fedmore.sims.data.tiny_model import make_tiny_base

    return make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_base(tiny):
    """That base in memory, in float32; a token is a byte."""
    from fedmore.experts.base.model import load_base

    return load_base(str(tiny), "float32")


@pytest.fixture
def open_umask():
    """Files get the modes that programs ask for."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def _signals_as_before():
    """A program that has ended is deaf to the two signals; the test that called it is not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    """Call it with entry points and a module's code: a package with plugins is installed."""
    from plugged import Plugged, forget

    yield Plugged(tmp_path / "packages", monkeypatch)
    monkeypatch.undo()
    forget()
