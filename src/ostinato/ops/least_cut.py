"""The least cut of a network: which side of it each place is on."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Place = TypeVar("Place", bound=Hashable)


class Network(Generic[Place]):
    """Places, and one-way connections between them that have integer capacities.

    The cut that parts a source from a sink at the least capacity is found by sending as much from one to the other
    as connections carry, along the shortest ways that are left (E. A. Dinic, "Algorithm for solution of a problem of
    maximum flow in networks with power estimation", 1970): what can still be reached then is the source's side.
    """

    def __init__(self) -> None:
        self._numbers: dict[Place, int] = {}
        self._leaving: list[list[int]] = []  # by place: its connections, those in reverse as well
        self._to: list[int] = []
        self._left: list[int] = []  # what each can still carry; number k ^ 1 is number k in reverse

    def _number(self, place: Place) -> int:
        number = self._numbers.setdefault(place, len(self._numbers))
        if number == len(self._leaving):
            self._leaving.append([])
        return number

    def connect(self, start: Place, end: Place, capacity: int) -> None:
        """Add a connection."""
        a, b = self._number(start), self._number(end)
        for here, there, left in ((a, b, capacity), (b, a, 0)):
            self._leaving[here].append(len(self._to))
            self._to.append(there)
            self._left.append(left)

    def source_side(self, source: Place, sink: Place) -> set[Place]:
        """The places on the source's side of the least cut; of several such cuts, of that which is next to the source.

        What the network can carry is used up by it.
        """
        a, b = self._number(source), self._number(sink)
        while (levels := self._levels(a))[b] >= 0:
            self._fill(a, b, levels)
        return {p for p, k in self._numbers.items() if levels[k] >= 0}

    def _levels(self, source: int) -> list[int]:
        """How far places are from the source, by connections that can carry something; -1 if they cannot be reached."""
        levels = [-1] * len(self._leaving)
        levels[source] = 0
        reached = [source]
        for place in reached:
            for k in self._leaving[place]:
                if self._left[k] and levels[self._to[k]] < 0:
                    levels[self._to[k]] = levels[place] + 1
                    reached.append(self._to[k])
        return levels

    def _fill(self, source: int, sink: int, levels: list[int]) -> None:
        """Send as much as ways of the shortest length carry, each connection one level further."""
        left, to = self._left, self._to
        tried = [0] * len(levels)  # by place: connections of which no more is to be had
        way: list[int] = []
        place = source
        while True:
            if place == sink:
                amount = min(left[k] for k in way)
                for k in way:
                    left[k] -= amount
                    left[k ^ 1] += amount
                way, place = [], source
            leaving = self._leaving[place]
            while tried[place] < len(leaving):
                k = leaving[tried[place]]
                if left[k] and levels[to[k]] == levels[place] + 1:
                    break
                tried[place] += 1
            if tried[place] < len(leaving):
                way.append(leaving[tried[place]])
                place = to[way[-1]]
            elif way:
                place = to[way.pop() ^ 1]
                tried[place] += 1
            else:
                return
