"""Dependency graphs of quantities with an exact number of operations.

A graph is drawn from its query backwards, so that every node is needed: an open node either becomes a stated number or
gets a relation to other quantities, until the operations are used up. Then numbers and signs are drawn forwards, among
those that keep every value in range. Operations are binary ones: a sum of three terms has two.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from infosteer.lab.reasoning.linear import Linear, combine

P_LEAF = 0.25  # an open node becomes a number though operations are left
P_SHARED = 0.15  # a parent is a quantity that another relation already uses
P_TOTAL = 0.2  # a parent, or the query, is the total of a place
P_THREE = 0.25  # three terms instead of two, where two operations are left
SIGNS = {"more": "+", "fewer": "-", "times": "*", "sum": "+", "difference": "-", "product": "*", "sum3": "+"}


class Infeasible(Exception):
    """This draw cannot be completed (no name left, or no value in range); the caller draws again."""


@dataclass(kw_only=True, slots=True, eq=False)
class Node:
    """A quantity.

    Attributes:
        place, kind: its name, as indices into the context's words; the kind of a total is None.
        parents: the quantities that it is computed from, in the order of the formula; none for a leaf.
        formula: "leaf", or a key of ``SIGNS``; totals have "sum" or "sum3".
        constant: the number in the formula, or the leaf's own; the true value of the unknown too.
        value: its true value.
        form: what the solution computes, a line in x in reverse mode.
        wanted: False for a distractor, which the query does not need.
    """

    place: int
    kind: int | None
    parents: list[Node] = field(default_factory=list)
    formula: str = "leaf"
    constant: int = 0
    value: int = 0
    form: Linear = field(default=Linear(0, 0))
    wanted: bool = True

    @property
    def operations(self) -> int:
        """Binary operations of its formula."""
        return {"leaf": 0, "sum3": 2}.get(self.formula, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """Nodes with parents before children; ``unknown`` is the leaf asked for in reverse mode, else None.

    ``root`` is the node that all wanted ones lead to: the query in forward mode, the given total in reverse mode.
    """

    nodes: tuple[Node, ...]
    root: Node
    unknown: Node | None

    @property
    def operations(self) -> int:
        """Binary operations of the solution: those of the formulas, and in reverse mode those of solving for x."""
        solving = 0 if self.unknown is None else (self.root.form.slope != 1) + (self.root.form.offset != 0)
        return solving + sum(node.operations for node in self.nodes if node.wanted)


class _Sketch:
    """Structure without numbers: which quantity is computed from which."""

    def __init__(self, draw: random.Random, operations: int, words: int) -> None:
        self.draw, self.budget = draw, operations
        self.places = draw.sample(range(words), min(words, 3 + operations // 3))
        self.kinds = draw.sample(range(words), min(words, 3 + operations // 2))
        self.used: set[tuple[int, int]] = set()
        self.closed: set[int] = set()  # places whose total is asked for: a further kind there would change it
        self.nodes: list[Node] = []
        self.open: list[Node] = []
        self.root = self._total_or_instance()
        while self.budget:
            self._expand()

    def _expand(self) -> None:
        node = self.open.pop(self.draw.randrange(len(self.open)))
        if self.open and self.draw.random() < P_LEAF:
            return
        if self.draw.random() < 0.4:
            node.formula, count = "one", 1
        elif self.budget > 1 and self.draw.random() < P_THREE:
            node.formula, count = "sum3", 3
        else:
            node.formula, count = "two", 2
        self.budget -= max(1, count - 1)
        for _ in range(count):
            shared = [other for other in self.open if other not in node.parents]
            if shared and self.draw.random() < P_SHARED:
                node.parents.append(self.draw.choice(shared))
            else:
                node.parents.append(self._total_or_instance())

    def _total_or_instance(self) -> Node:
        empty = [place for place in self.places if all(place != node.place for node in self.nodes)]
        if not (self.budget and len(empty) > 1 and self.draw.random() < P_TOTAL):
            return self.instance()
        place = self.draw.choice(empty)
        count = 3 if self.budget > 1 and self.draw.random() < P_THREE else 2
        self.budget -= count - 1
        total = Node(place=place, kind=None, formula="sum3" if count == 3 else "sum")
        self.nodes.append(total)
        total.parents = sorted((self.instance(place) for _ in range(count)), key=lambda node: node.kind or 0)
        self.closed.add(place)
        return total

    def instance(self, place: int | None = None) -> Node:
        """A quantity with a name of its own, open to become anything."""
        places = [p for p in self.places if p not in self.closed] if place is None else [place]
        names = [(p, k) for p in places for k in self.kinds if (p, k) not in self.used]
        if not names:
            raise Infeasible
        name = self.draw.choice(names)
        self.used.add(name)
        node = Node(place=name[0], kind=name[1])
        self.nodes.append(node)
        self.open.append(node)
        return node


def draw_graph(
    draw: random.Random, *, operations: int, reverse: bool, distractors: int, largest: int, words: int
) -> Graph:
    """One try at a graph.

    Args:
        operations: binary operations of the formulas (solving for x comes on top).
        reverse: make one leaf the unknown.
        distractors: quantities that the query does not need.
        largest: values and coefficients lie in 0 to this.
        words: number of places, and of kinds, that the context has.

    Raises:
        Infeasible: this draw came to a dead end.
    """
    sketch = _Sketch(draw, operations, words)
    wanted = _parents_first(sketch.nodes)
    unknown = draw.choice([node for node in wanted if node.formula == "leaf"]) if reverse else None
    for node in wanted:
        _draw_value(draw, node, largest, unknown)
    if unknown is not None and sketch.root.form.slope < 1:
        raise Infeasible
    extra = []
    for _ in range(distractors):
        node = sketch.instance()
        node.wanted = False
        known = [other for other in wanted if not other.form.slope]
        if known and draw.random() < 0.5:
            node.formula, node.parents = "one", [draw.choice(known)]
        _draw_value(draw, node, largest, None)
        extra.append(node)
    return Graph(nodes=(*wanted, *extra), root=sketch.root, unknown=unknown)


def _parents_first(nodes: Sequence[Node]) -> list[Node]:
    """Every node after its parents."""
    ordered: list[Node] = []

    def visit(node: Node) -> None:
        if node not in ordered:
            for parent in node.parents:
                visit(parent)
            ordered.append(node)

    for node in nodes:
        visit(node)
    return ordered


def _draw_value(draw: random.Random, node: Node, largest: int, unknown: Node | None) -> None:
    """Numbers and sign of one node whose parents have theirs."""
    if node.formula == "leaf":
        node.constant = node.value = draw.randint(1, max(1, largest // 2))
        node.form = Linear(1, 0) if node is unknown else Linear(0, node.value)
        return
    choices: list[tuple[str, int, list[Node]]]
    if node.formula == "one":
        small = draw.randint(1, max(1, largest // 4))
        factor = draw.randint(2, max(2, largest // 5))
        choices = [(name, c, node.parents) for name, c in (("more", small), ("fewer", small), ("times", factor))]
    elif node.formula == "two":
        swapped = node.parents[::-1]
        choices = [(name, 0, node.parents) for name in ("sum", "difference", "product")] + [("difference", 0, swapped)]
    else:  # sum3, and totals
        choices = [(node.formula, 0, node.parents)]
    draw.shuffle(choices)
    for formula, constant, parents in choices:
        steps = [evaluated(formula, constant, values) for values in _values(parents)]
        if all(step is not None and _in_range(step, largest) for step in steps):
            node.formula, node.constant, node.parents = formula, constant, parents
            node.value, node.form = steps[0][-1].offset, steps[1][-1]  # type: ignore[index]
            return
    raise Infeasible


def _values(parents: Sequence[Node]) -> tuple[list[Linear], list[Linear]]:
    """True values and forms of the parents."""
    return [Linear(0, parent.value) for parent in parents], [parent.form for parent in parents]


def evaluated(formula: str, constant: int, values: Sequence[Linear]) -> list[Linear] | None:
    """Results of a formula's operations one after the other, the last one its value; None where one is no line."""
    terms = list(values) if len(values) > 1 else [values[0], Linear(0, constant)]
    results = []
    running = terms[0]
    for term in terms[1:]:
        combined = combine(SIGNS[formula], running, term)
        if combined is None:
            return None
        running = combined
        results.append(running)
    return results


def _in_range(steps: Sequence[Linear], largest: int) -> bool:
    return all(0 <= number <= largest for step in steps for number in step)
