"""Makes `report.json`, `report.html` and PNG plots from a finished federation's directory."""

from dataclasses import dataclass
from pathlib import Path

from fedmore.sims.report.schema import Report, to_json
from fedmore.sims.report.study import Study, read_study
from fedmore.sims.report.verdict import Verdict, judge


@dataclass(frozen=True)
class Written:
    """A report and the paths of its files."""

    study: Study
    verdicts: tuple[Verdict, ...]
    json: Path
    html: Path
    plots: tuple[Path, ...]

    @property
    def report(self) -> Report:
        """The contents of `report.json`."""
        return self.study.report


def write_report(
    run_directory: Path,
    *,
    scenario: str,
    engine: str,
    seed: int,
    wall_s: float,
    out: Path | None = None,
) -> Written:
    """Read the federation in `run_directory`; write `report.json`, `report.html` and `plots/`.

    The files go to `out`, by default the directory itself. `wall_s` is the run's time in seconds.
    Raises `RegistryError` if the evaluation is missing or malformed, and `ConfigError` for a plan
    that cannot be read.
    """
    # Imported late: matplotlib and jinja2 take half a second, for which `--help` should not wait.
    from fedmore.sims.report.html import render
    from fedmore.sims.report.plots import draw_plots

    study = read_study(run_directory, scenario=scenario, engine=engine, seed=seed, wall_s=wall_s)
    table = to_json(study.report)  # first, so that a wrong number leaves no partial report
    folder = out or run_directory
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw_plots(study, folder / "plots")
    verdicts = judge(study)
    page = render(study, verdicts, drawn)
    written = Written(
        study=study,
        verdicts=verdicts,
        json=folder / "report.json",
        html=folder / "report.html",
        plots=tuple(each.path for each in drawn),
    )
    written.json.write_text(table, encoding="utf-8")
    written.html.write_text(page, encoding="utf-8")
    return written
