"""Agents of another release than the manager are told as such."""

from __future__ import annotations

from collections import Counter

import pytest

from edge_contract import __version__
from fleet.cli.fleet_views import _skew_lines
from fleet.views.skew import agent_skew


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ("1.2.0", ""),
        ("1.1.9", "older than the manager's 1.2.0"),
        ("1.2.0-rc.1", "older than the manager's 1.2.0"),
        ("1.10.0", "newer than the manager's 1.2.0"),
        ("1.2.3-²", "not a release; the manager is 1.2.0"),
        ("git-4711", "not a release; the manager is 1.2.0"),
        ("", ""),
    ],
)
def test_an_agent_is_compared_by_semantic_version(agent: str, said: str) -> None:
    assert agent_skew(agent, own="1.2.0") == said


def test_a_fleet_is_told_which_releases_are_behind() -> None:
    agents = Counter({__version__: 3, "0.0.9": 2})
    assert _skew_lines(agents) == [
        f"agent 0.0.9 on 2 of the devices: older than the manager's {__version__}"
    ]
