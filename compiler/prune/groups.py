"""Dependency groups: sets of channels that belong to the same layers and are pruned together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto

from compiler.prune.channels import ChannelMap, Shape, follow_channels


@dataclass(frozen=True)
class Group:
    """Channels that the same layers make.

    name: of the first layer that makes them.
    channels: ids in the order of that layer's outputs. A removed channel goes from every
        producer, from all that carries it, and from every consumer.
    producers, consumers: node names of dense layers, in the order of execution.
    frozen: why nothing may be removed; None when it may.
    is_pair: one layer makes the channels and one of the same kind consumes them: two
        convolutions in a row, or two matrix products.
    """

    name: str
    channels: tuple[int, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    frozen: str | None
    is_pair: bool

    @property
    def first_consumer(self) -> str:
        """Where removal begins: the consumer that runs first."""
        return self.consumers[0]


@dataclass(frozen=True)
class Grouping:
    """All groups of a graph in the order of execution, and the map that they come from."""

    groups: tuple[Group, ...]
    channels: ChannelMap

    @property
    def prunable(self) -> tuple[Group, ...]:
        """Groups from which channels may be removed."""
        return tuple(group for group in self.groups if group.frozen is None)


def find_groups(graph: GraphProto, shapes: Mapping[str, Shape]) -> Grouping:
    """The dependency groups of ``graph``.

    Args:
        graph: a checked float graph in the order of execution, constants as initializers.
        shapes: of every tensor for batch 1, as ``run_shapes`` gives them.
    """
    found = follow_channels(graph, shapes)
    makes = [cut for cut in found.cuts if cut.role == "makes" and cut.slot == 1]
    takes = [cut for cut in found.cuts if cut.role == "takes"]
    # Producers that share a channel (a residual sum) are one group.
    member: dict[int, int] = {}
    bundles: dict[int, list[int]] = {}
    for cut in makes:
        ids = list(dict.fromkeys(int(i) for i in cut.ids))
        old = sorted({member[i] for i in ids if i in member})
        home = old[0] if old else cut.node
        merged = [i for key in old for i in bundles.pop(key)]
        merged += [i for i in ids if i not in member]
        bundles[home] = merged
        member.update(dict.fromkeys(merged, home))
    groups = []
    for channels in bundles.values():
        inside = np.array(channels)
        producers = [c.node for c in makes if np.isin(c.ids, inside).any()]
        consumers = [c.node for c in takes if np.isin(c.ids, inside).any()]
        reasons = [found.frozen[i] for i in channels if i in found.frozen]
        frozen = reasons[0] if reasons else None
        if frozen is None and not consumers:
            frozen = "no dense layer consumes it"
        names = [graph.node[index].name for index in producers]
        kinds = [graph.node[index].op_type == "Conv" for index in (*producers, *consumers)]
        groups.append(
            Group(
                name=names[0],
                channels=tuple(channels),
                producers=tuple(names),
                consumers=tuple(graph.node[index].name for index in consumers),
                frozen=frozen,
                is_pair=len(producers) == len(consumers) == 1 and len(set(kinds)) == 1,
            )
        )
    order = {node.name: index for index, node in enumerate(graph.node)}
    groups.sort(key=lambda group: order[group.name])
    return Grouping(tuple(groups), found)
