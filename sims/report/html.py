"""Renders `report.html`: a single file that works offline, in light and dark mode."""

import base64
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from fedmore.coordinator.generation.page import make_environment, style
from fedmore.sims.report.plots import Drawn
from fedmore.sims.report.schema import Client, Expert, Traffic
from fedmore.sims.report.study import ExpertRound, Study
from fedmore.sims.report.style import human_bytes
from fedmore.sims.report.verdict import Verdict, signed

TEMPLATE = "report.html.j2"
NONE = "not measured"


def render(study: Study, verdicts: Sequence[Verdict], plots: Sequence[Drawn]) -> str:
    """Render the whole page; all values from data are escaped."""
    environment = make_environment()
    environment.filters |= _filters(study)
    text = files("fedmore.sims.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    report = study.report
    seen = {t for stage in report.forgetting for t in stage.bits_per_byte}
    return environment.from_string(text).render(
        style=style(),
        report=report,
        verdicts=verdicts,
        goals_met=sum(verdict.word == "met" for verdict in verdicts),
        plots={drawn.plot.name: _figure(drawn) for drawn in plots},
        paired=study.paired,
        shares={text: change.gain_kept for text, change in study.paired.items()},
        seen=[t for t in report.bits_per_byte if t in seen],
        traffic=_traffic(report.traffic),
        routing=study.routing,
        gated=list(dict.fromkeys(e for gates in study.routing.values() for e in gates)),
    )


def _figure(drawn: Drawn) -> dict[str, Any]:
    """The PNG as a data URI, with its size, so that the page does not move while loading."""
    data = drawn.path.read_bytes()
    return {
        "src": f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}",
        "width": int.from_bytes(data[16:20], "big"),
        "height": int.from_bytes(data[20:24], "big"),
        "caption": drawn.plot.caption,
    }


def _traffic(traffic: Traffic) -> list[tuple[str, int | None, str]]:
    return [
        ("bytes_up", traffic.bytes_up, "from the clients to the coordinator"),
        ("bytes_down", traffic.bytes_down, "from the coordinator to the clients"),
        ("bytes_up_if_fp32", traffic.bytes_up_if_fp32, "the same numbers at 4 bytes each"),
        (
            "bytes_up_if_full_model",
            traffic.bytes_up_if_full_model,
            "a whole float32 model from each client in each of its rounds",
        ),
    ]


def _filters(study: Study) -> dict[str, Any]:
    """The template's filters for values."""

    def last_loss(client: Client) -> str:
        losses = [r.clients[client.name].loss for r in study.rounds if client.name in r.clients]
        return f"{losses[-1]:.3f}" if losses and losses[-1] is not None else NONE

    def last_error(expert: Expert) -> str:
        found = [r.experts[expert.name] for r in study.rounds if expert.name in r.experts]
        return small(found[-1].aggregation_error if found else None)

    def last_sent(expert: Expert) -> str:
        found = [r.experts[expert.name] for r in study.rounds if expert.name in r.experts]
        last = found[-1] if found else ExpertRound()
        if last.broadcast_rank is None or last.download_bytes is None:
            return NONE
        lost = f", error {small(last.broadcast_error)}" if last.broadcast_error else ""
        return f"rank {last.broadcast_rank}{lost}, {human_bytes(last.download_bytes)}"

    def last_sum(expert: Expert) -> str:
        found = [r.experts[expert.name] for r in study.rounds if expert.name in r.experts]
        return str(found[-1].summed_rank) if found and found[-1].summed_rank is not None else NONE

    return {
        "bytes": lambda count: NONE if count is None else human_bytes(count),
        "count": lambda count: NONE if count is None else f"{count:,}",
        "duration": duration,
        "percent": lambda share: f"{share:.0%}",
        "signed": signed,
        "millions": lambda count: f"{count / 1e6:.1f} million",
        "small": small,
        "last_loss": last_loss,
        "last_error": last_error,
        "last_sent": last_sent,
        "last_sum": last_sum,
    }


def small(value: float | None) -> str:
    """Format a number far below 1 in scientific notation."""
    return NONE if value is None else f"{value:.1e}"


def duration(seconds: float) -> str:
    """Format seconds, such as `342.5`, as `5 min 43 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
