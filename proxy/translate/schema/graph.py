"""Loops in a graph, without recursion."""

from collections.abc import Mapping, Sequence

Graph = Mapping[int, Sequence[int]]
"""Node → the nodes it leads to."""


def on_loops(graph: Graph) -> frozenset[int]:
    """The nodes on loops, and those between two loops: what is left when dead ends are taken away from both sides."""
    return frozenset(_without_dead_ends(_reversed(_without_dead_ends(graph))))


def _reversed(graph: Graph) -> dict[int, list[int]]:
    turned: dict[int, list[int]] = {node: [] for node in graph}
    for node, others in graph.items():
        for other in others:
            if other in turned:
                turned[other].append(node)
    return turned


def _without_dead_ends(graph: Graph) -> Graph:
    """The graph without the nodes from which every way ends."""
    entering = _reversed(graph)
    ways = {node: sum(other in graph for other in others) for node, others in graph.items()}
    ends = [node for node, count in ways.items() if count == 0]
    while ends:
        node = ends.pop()
        del ways[node]
        for other in entering[node]:
            ways[other] -= 1
            if ways[other] == 0:
                ends.append(other)
    return {node: graph[node] for node in ways}
