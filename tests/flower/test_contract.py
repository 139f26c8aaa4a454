"""Flower's strategies with a stock ClientApp, over the grid of engine `local`."""

import pytest
from direct import DirectGrid
from stock import CASES, NODES, client_app, frozen, run_case, run_echo


@pytest.fixture
def grid(local):
    with local(client_app, NODES) as found:
        yield found


@pytest.mark.parametrize("case", CASES)
def test_a_strategy_gives_the_same_as_where_the_app_is_called_directly(grid, case):
    assert frozen(run_case(grid, case)) == frozen(run_case(DirectGrid(client_app, NODES), case))


def test_every_kind_of_value_and_array_comes_back_as_it_went(grid):
    assert run_echo(grid) == run_echo(DirectGrid(client_app, NODES))
