"""Which channels belong together, and which may never go."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compiler.prune.channels import Track, reshape_track
from compiler.prune.groups import Group
from compiler.prune.prune import group_channels
from tests.prune.graphs import Net, stream


def groups_of(net: Net, output: str, folder: Path) -> list[Group]:
    return list(group_channels(net.graph(output, folder), stream(1)).groups)


def shape_of(group: Group) -> tuple[int, int, int, bool]:
    counts = len(group.channels), len(group.producers), len(group.consumers)
    return *counts, group.frozen is None


def test_a_chain_gives_a_pair_for_each_two_layers_and_a_frozen_output(tmp_path: Path) -> None:
    net = Net()
    hidden = net.relu(net.conv(net.relu(net.conv("x", 8)), 12))
    found = groups_of(net, net.head(hidden), tmp_path)
    assert [shape_of(group) for group in found] == [
        (8, 1, 1, True),
        (12, 1, 1, True),
        (5, 1, 0, False),
    ]
    assert "output" in (found[-1].frozen or "")


def test_a_residual_sum_ties_both_branches_into_one_group(tmp_path: Path) -> None:
    net = Net()
    stem = net.relu(net.conv("x", 8))
    branch = net.conv(net.relu(net.conv(stem, 6)), 8)
    joined = net.relu(net.op("Add", stem, branch))
    found = groups_of(net, net.head(joined), tmp_path)
    assert [shape_of(group) for group in found[:2]] == [(8, 2, 2, True), (6, 1, 1, True)]


def test_concat_keeps_its_parts_apart_but_gives_them_one_consumer(tmp_path: Path) -> None:
    net = Net()
    left, right = net.relu(net.conv("x", 8)), net.relu(net.conv("x", 4))
    both = net.op("Concat", left, right, width=12, axis=1)
    found = groups_of(net, net.head(net.relu(net.conv(both, 6, 1))), tmp_path)
    assert [shape_of(group) for group in found[:2]] == [(8, 1, 1, True), (4, 1, 1, True)]
    assert found[0].consumers == found[1].consumers


def test_a_depthwise_convolution_carries_its_channels(tmp_path: Path) -> None:
    net = Net()
    hidden = net.relu(net.depthwise(net.relu(net.conv("x", 8))))
    found = groups_of(net, net.head(net.relu(net.conv(hidden, 4, 1))), tmp_path)
    assert shape_of(found[0]) == (8, 1, 1, True)


def test_a_gate_by_multiplication_ties_the_gate_to_the_trunk(tmp_path: Path) -> None:
    net = Net()
    trunk = net.relu(net.conv("x", 8))
    small = net.relu(net.conv(net.op("GlobalAveragePool", trunk), 2, 1))
    gate = net.op("Sigmoid", net.conv(small, 8, 1))
    found = groups_of(net, net.head(net.op("Mul", trunk, gate)), tmp_path)
    assert [shape_of(group) for group in found[:2]] == [(8, 2, 2, True), (2, 1, 1, True)]


def test_an_operator_that_is_not_known_freezes_what_it_touches_and_no_more(tmp_path: Path) -> None:
    net = Net()
    first = net.relu(net.conv("x", 8))
    mixed = net.op("LRN", net.relu(net.conv(first, 6)), size=3)
    found = groups_of(net, net.head(net.relu(net.conv(mixed, 4))), tmp_path)
    assert [group.frozen is None for group in found] == [True, False, True, False]
    assert "LRN" in (found[1].frozen or "")


def test_a_grouped_convolution_that_is_not_depthwise_freezes_both_sides(tmp_path: Path) -> None:
    net = Net()
    hidden = net.relu(net.conv("x", 8))
    weight = net.constant(net.normal(8, 4, 1, 1))
    grouped = net.op("Conv", hidden, weight, group=2)
    found = groups_of(net, net.head(net.relu(grouped)), tmp_path)
    assert all(group.frozen for group in found)


def test_channels_that_meet_the_models_input_stay(tmp_path: Path) -> None:
    net = Net()
    joined = net.op("Add", net.conv("x", 3), "x")
    found = groups_of(net, net.head(net.relu(joined)), tmp_path)
    assert found[0].frozen is not None


def test_channels_that_are_an_output_themselves_stay(tmp_path: Path) -> None:
    net = Net()
    found = groups_of(net, net.op("Flatten", net.relu(net.conv("x", 4))), tmp_path)
    assert [group.frozen is None for group in found] == [False]


def test_a_reshape_that_merges_axes_spreads_each_channel_over_its_features() -> None:
    track = Track(1, np.array([5, 6]))
    merged = reshape_track((1, 2, 3, 1), (1, 6), track)
    assert merged is not None
    assert merged.axis == 1
    assert merged.ids.tolist() == [5, 5, 5, 6, 6, 6]


def test_a_reshape_with_channels_last_interleaves_them() -> None:
    merged = reshape_track((1, 3, 2), (1, 6), Track(2, np.array([5, 6])))
    assert merged is not None
    assert merged.ids.tolist() == [5, 6, 5, 6, 5, 6]


def test_a_reshape_that_cuts_channels_or_merges_the_batch_is_not_followed() -> None:
    track = Track(1, np.arange(4))
    assert reshape_track((1, 4, 5), (1, 2, 2, 5), track) is None
    assert reshape_track((1, 4, 5), (4, 5), track) is None
