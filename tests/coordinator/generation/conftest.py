"""A federation's folder with two mixtures over the tiny base, and the program run on it."""

import io
import sys
from dataclasses import dataclass

import pytest
import torch

from fedmore.coordinator.cli import main
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.base.model import shapes_of
from fedmore.experts.mixture.checkpoint import Entry, Recipe, save_mixture
from fedmore.experts.mixture.model import routed_blocks
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.spec import ExpertSpec
from fedmore.protos.runtime.exits import DEBUG, QUIET

NAMES = ("legal", "gl")
TEMPLATE = (
    "{% for turn in messages %}[{{ turn['role'] }}]{{ turn['content'] }};{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="session")
def base(tiny_base):
    return tiny_base


@pytest.fixture(scope="session")
def federation(tmp_path_factory, base):
    """Its `mixture` has one decision for all layers, `layered` one for each.

    The changes are large, so that the random base does not say the same letter for ever.
    """
    folder = tmp_path_factory.mktemp("federation")
    (folder / "federation.toml").write_text(
        f'[federation]\nname = "test"\n[base]\nmodel = "{base.name}"\ndtype = "float32"\n',
        encoding="utf-8",
    )
    Registry.open(folder).close()
    random = torch.Generator().manual_seed(1)
    experts = {name: change(name, shapes_of(base.model), random) for name in NAMES}
    entries = tuple(Entry(name, "expert", name, 3, 1, "ab") for name in NAMES)
    for place, layers in (("mixture", 1), ("layered", len(routed_blocks(experts)))):
        router = make_router(RouterSpec("softmax", len(NAMES), 64, layers, "token", top_k=0))
        torch.nn.init.normal_(router.rows_LAD, std=3, generator=random)
        recipe = Recipe(base.name, base.fingerprint, router.spec.table(), entries)
        save_mixture(folder / place, recipe, experts, router)
    return folder


def change(name, shapes, random):
    def draw(*size):
        return torch.randn(*size, generator=random) * 0.6

    sites = ExpertSpec(name, "expert", name, 3).sites(shapes)
    return {site.path: (draw(site.out_features, 3), draw(3, site.in_features)) for site in sites}


@pytest.fixture(scope="session")
def template():
    """A chat template."""
    return TEMPLATE


@dataclass
class Done:
    """How the program ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys):
    """Call it with a command line of `coordinator`, which runs in this process."""
    for name in ("FORCE_COLOR", "NO_COLOR", "COLORTERM", "COLUMNS", "TTY_COMPATIBLE", DEBUG):
        monkeypatch.delenv(name, raising=False)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["coordinator", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return Done(ended.value.code, said.out, said.err)

    return command


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    """Call it with TERM: what the program writes from now on goes to a terminal."""

    def begin(term="xterm-256color"):
        shown = Screen()
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys, "stdout", shown)
        monkeypatch.setattr(sys, "stderr", shown)
        return shown

    return begin
