import pytest
from flwr.app import Context, RecordDict

from fedmore.coordinator.flower_app import main
from fedmore.coordinator.run.external_grid import wait_for_nodes
from fedmore.experts.errors import ConfigError, RoundError


class Arriving:
    """A grid to which a node comes each time it is asked."""

    def __init__(self):
        self.asked = 0

    def get_node_ids(self):
        self.asked += 1
        return range(self.asked)


def test_the_plan_waits_for_its_nodes():
    grid = Arriving()
    wait_for_nodes(grid, 3, 10.0, clock=lambda: 0.0, sleep=lambda _: None)
    assert grid.asked == 3


def test_and_not_for_ever():
    grid = Arriving()
    with pytest.raises(RoundError, match="1 of 9 nodes came within 1 s"):
        wait_for_nodes(grid, 9, 1.0, clock=lambda: float(grid.asked), sleep=lambda _: None)


def test_the_run_config_must_say_which_federation():
    with pytest.raises(ConfigError, match="directory="):
        main(None, Context(1, 0, {}, RecordDict(), {"directory": ""}))
