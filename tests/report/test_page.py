"""report.html, the plots and the terminal: complete, self-contained, escaped, and drawn."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from html_pages import Page
from rich.console import Console

from fedmore.sims.report.build import Written, write_report
from fedmore.sims.report.style import apart, human_bytes
from fedmore.sims.report.summary import summary_table

Make = Callable[..., Path]


def report_of(directory: Path) -> Written:
    return write_report(directory, scenario="quickstart", engine="grpc", seed=1, wall_s=342.5)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, make_at: Make) -> Written:
    return report_of(make_at(tmp_path_factory.mktemp("run") / "federation"))


@pytest.fixture(scope="module")
def page(written: Written) -> Page:
    return Page(written.html.read_text(encoding="utf-8"))


def test_every_plot_is_a_png_of_readable_size(written: Written) -> None:
    names = [path.name for path in written.plots]
    assert names == [
        "bits_per_byte.png",
        "forgetting.png",
        "traffic.png",
        "training_loss.png",
        "routing.png",
        "aggregation_error.png",
    ]
    for path in written.plots:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (
            1200,
            705,
        )


def test_the_page_nests_and_needs_nothing_from_outside(written: Written, page: Page) -> None:
    assert page.open == []
    for _, attributes in page.tags:
        assert (attributes.get("src") or "data:").startswith("data:")
        assert "href" not in attributes
    text = written.html.read_text(encoding="utf-8")
    assert "http" not in text
    assert "url(" not in text
    assert not page.all("script")


def test_figures_and_tables_are_accessible(page: Page) -> None:
    images = page.all("img")
    assert len(images) == len(page.all("figcaption")) == 6
    for image in images:
        assert image["alt"]
        assert (image["src"] or "").startswith("data:image/png;base64,")
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(cell.get("scope") in {"col", "row"} for cell in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_the_page_has_the_numbers(page: Page) -> None:
    words = " ".join(" ".join(page.words).split())
    for number in ("1.031", "28.2 times", "4.63 MB", "130,332,672", "4.6e-07", "88%", "5 min 42 s"):
        assert number in words
    assert words.count(" met") >= 5


def test_names_are_escaped(make: Make) -> None:
    score = {"mean": 1.0, "ci95": [0.9, 1.1]}
    scores = {"base": score, "own_expert": None, "mixture": score}
    text = report_of(make(bits_per_byte={"<b>$x_1$": scores}, forgetting=[], paired={})).html
    assert "<b>" not in text.read_text(encoding="utf-8")


def test_a_run_without_stages_routing_or_sockets(make: Make) -> None:
    written = report_of(make(counted=False, forgetting=[], routing={}, paired={}))
    names = [path.stem for path in written.plots]
    assert names == ["bits_per_byte", "traffic", "training_loss", "aggregation_error"]
    assert "not measured" in written.html.read_text(encoding="utf-8")
    assert Page(written.html.read_text(encoding="utf-8")).open == []


@pytest.mark.slow
def test_the_files_may_go_elsewhere(make: Make, tmp_path: Path) -> None:
    directory, out = make(), tmp_path / "out" / "report"
    write_report(directory, scenario="s", engine="local", seed=2, wall_s=1.0, out=out)
    assert {p.name for p in out.iterdir()} == {"report.json", "report.html", "plots"}
    assert not (directory / "report.json").exists()


@pytest.mark.slow
def test_the_same_numbers_draw_the_same_bytes(make: Make, written: Written) -> None:
    again = [path.read_bytes() for path in report_of(make()).plots]
    assert again == [path.read_bytes() for path in written.plots]


def test_the_terminal_shows_numbers_goals_and_files(written: Written) -> None:
    console = Console(file=io.StringIO(), width=140)
    console.print(summary_table(written))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1.049 ± 0.052" in shown
    assert shown.count("✔ met") == 5
    assert "report.html" in shown


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (4_627_929, "4.63 MB"), (3e12, "3 TB")],
)
def test_human_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_labels_move_apart_and_keep_their_order() -> None:
    placed = apart([0.5, 0.1, 0.51, 0.52], 0.1)
    assert placed[1] == pytest.approx(0.1)
    assert placed[2] - placed[0] == pytest.approx(0.1)
    assert placed[3] - placed[2] == pytest.approx(0.1)
