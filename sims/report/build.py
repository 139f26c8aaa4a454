"""From a finished federation directory to `report.json`, `report.html` and a PNG of each plot."""

from dataclasses import dataclass
from pathlib import Path

from fedmore.sims.report.schema import Report, to_json
from fedmore.sims.report.study import Study, read_study
from fedmore.sims.report.verdict import Verdict, judge


@dataclass(frozen=True)
class Written:
    """A report and where its files are."""

    study: Study
    verdicts: tuple[Verdict, ...]
    json: Path
    html: Path
    plots: tuple[Path, ...]

    @property
    def report(self) -> Report:
        """What `report.json` holds."""
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

    The files go to `out`, or else into the directory itself. `wall_s` is in seconds. Raises
    `RegistryError` when the evaluation is missing or malformed, `ConfigError` for the plan.
    """
    # matplotlib and jinja2 take half a second that no `--help` should wait for
    from fedmore.sims.report.html import render
    from fedmore.sims.report.plots import draw_plots

    study = read_study(run_directory, scenario=scenario, engine=engine, seed=seed, wall_s=wall_s)
    table = to_json(study.report)  # first: a wrong number must not leave half a report
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
