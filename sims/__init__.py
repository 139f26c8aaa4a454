"""Runs whole federations on one machine: scenarios, data, studies and reports."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmore.sims.catalogue import scenario
    from fedmore.sims.engines.run import simulate
    from fedmore.sims.report.schema import Report
    from fedmore.sims.scenarios.scenario import ClientSpec, Scenario
else:
    from importlib import import_module

    _HOMES = {
        "ClientSpec": "scenarios.scenario",
        "Report": "report.schema",
        "Scenario": "scenarios.scenario",
        "scenario": "catalogue",
        "simulate": "engines.run",
    }

    def __getattr__(name):
        """Import an exported name at its first use."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__():
        return __all__


__all__ = [
    "ClientSpec",
    "Report",
    "Scenario",
    "scenario",
    "simulate",
]
