"""From a graph to a story: shuffled sentences, a question, and a worked solution that a program can check."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from infosteer.lab.reasoning.contexts import EXPRESSIONS, Context
from infosteer.lab.reasoning.graph import SIGNS, Graph, Node, evaluated
from infosteer.lab.reasoning.linear import Linear

UNKNOWN = "x"  # the letter of the unknown in reverse mode, and of nothing else
SOLVE = "Solve"  # begins the last step of reverse mode; stands for its node's name
LETTERS = tuple(letter for letter in string.ascii_letters if letter != UNKNOWN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A word problem.

    Attributes:
        problem, question: what is stated, and what is asked.
        solution: the worked solution.
        answer: a whole number.
        operations: binary operations of the solution.
        context: the story's letter.
        reverse: whether an unknown is solved for.
        gold: name of each quantity -> names it is computed from, and its value.
    """

    problem: str
    question: str
    solution: str
    answer: int
    operations: int
    context: str
    reverse: bool
    gold: dict[str, tuple[frozenset[str], Linear]]

    @property
    def prompt(self) -> str:
        """The text that a model continues; the completion follows at once."""
        return f"<question> {self.problem} {self.question} </question> <solution>"

    @property
    def completion(self) -> str:
        """The gold solution and answer."""
        return f" {self.solution} </solution> <answer> {self.answer} </answer>"


def name_of(node: Node, context: Context) -> str:
    """The phrase that names a quantity, such as "owls in Cedarvale"."""
    kind = context.total if node.kind is None else context.kinds[node.kind]
    return f"{kind} {context.joint} {context.places[node.place]}"


def render(graph: Graph, key: str, context: Context, draw: random.Random) -> Problem:
    """The story of a graph, with sentences and letters in an order drawn by ``draw``."""
    spoken = [node for node in graph.nodes if node.kind is not None or context.totals_spoken]
    draw.shuffle(spoken)
    sentences = [_sentence(node, context, unknown=node is graph.unknown) for node in spoken]
    if graph.unknown is not None:
        given = context.relation.format(p=name_of(graph.root, context), e=graph.root.value)
        sentences.insert(draw.randint(0, len(sentences)), given)
    if context.preamble:
        sentences.insert(0, context.preamble)
    asked = graph.root if graph.unknown is None else graph.unknown
    steps, gold = _solve(graph, _told(graph.nodes, spoken), context, draw)
    return Problem(
        problem=" ".join(sentences),
        question=context.query.format(p=name_of(asked, context)),
        solution=" ".join(steps),
        answer=asked.value,
        operations=graph.operations,
        context=key,
        reverse=graph.unknown is not None,
        gold=gold,
    )


def _sentence(node: Node, context: Context, *, unknown: bool) -> str:
    if unknown:
        return context.unknown.format(p=name_of(node, context))
    if node.formula == "leaf" and node.kind is not None:
        return context.leaf.format(n=node.constant, kind=context.kinds[node.kind], place=context.places[node.place])
    names = dict(zip("pqr", (name_of(parent, context) for parent in node.parents), strict=False))
    expression = EXPRESSIONS[node.formula].format(c=node.constant, **names)
    return context.relation.format(p=name_of(node, context), e=expression)


def _told(nodes: Sequence[Node], spoken: Sequence[Node]) -> list[Node]:
    """The wanted nodes in the order of the solution.

    Again and again the first sentence whose quantities are all known is used; a total that no sentence tells is taken
    as soon as its parts are known.
    """
    waiting = [node for node in nodes if node not in spoken and node.wanted] + [n for n in spoken if n.wanted]
    ordered: list[Node] = []
    while waiting:
        following = next(node for node in waiting if all(parent in ordered for parent in node.parents))
        waiting.remove(following)
        ordered.append(following)
    return ordered


def _solve(
    graph: Graph, ordered: Sequence[Node], context: Context, draw: random.Random
) -> tuple[list[str], dict[str, tuple[frozenset[str], Linear]]]:
    """The solution's sentences and the gold graph."""
    # One after the other from a random one on. Letters drawn freely would be all alike to a model, and greedy decoding
    # would then take the same one again and again.
    start = draw.randrange(len(LETTERS))
    letters = iter(LETTERS[start:] + LETTERS[:start])
    named: dict[int, str] = {}
    steps: list[str] = []
    gold: dict[str, tuple[frozenset[str], Linear]] = {}
    for node in ordered:
        letter = named[id(node)] = UNKNOWN if node is graph.unknown else next(letters)
        name = name_of(node, context)
        steps.append(f"Define {name} as {letter}; {_working(node, letter, named, letters)}.")
        gold[name] = (frozenset(name_of(parent, context) for parent in node.parents), node.form)
    if graph.unknown is not None:
        root, form = graph.root, graph.root.form
        last = [f"{named[id(root)]} = {root.value}"]
        if form != Linear(1, 0):
            last.append(f"{form.show()} = {root.value}")
        if form.slope != 1 and form.offset:
            left = root.value - form.offset
            last.append(f"{Linear(form.slope, 0).show()} = {root.value} - {form.offset} = {left}")
        ending = f"{root.value} - {form.offset} = " if form.slope == 1 and form.offset else ""
        steps.append(f"{SOLVE} {'; '.join(last)}; so {UNKNOWN} = {ending}{graph.unknown.value}.")
        needed = frozenset({name_of(root, context), name_of(graph.unknown, context)})
        gold[SOLVE] = (needed, Linear(0, graph.unknown.value))
    return steps, gold


def _working(node: Node, letter: str, named: dict[int, str], letters: Iterator[str]) -> str:
    """What follows the name: the formula in letters, in numbers, and its value; long sums by a letter between."""
    if node.formula == "leaf":
        return f"so {letter} = {node.form.show()}"
    sign = SIGNS[node.formula]
    terms = [(named[id(parent)], parent.form) for parent in node.parents]
    if len(terms) == 1:  # a constant comes first in a product, as it is said
        constant = (str(node.constant), Linear(0, node.constant))
        terms = [constant, *terms] if sign == "*" else [*terms, constant]
    results = evaluated(node.formula, node.constant, [parent.form for parent in node.parents])
    assert results is not None
    if len(terms) == 2:
        return f"so {_equation(letter, terms, sign, results[0])}"
    between = next(letters)
    first = _equation(between, terms[:2], sign, results[0])
    return f"{first}; so {_equation(letter, [(between, results[0]), terms[2]], sign, results[1])}"


def _equation(letter: str, terms: Sequence[tuple[str, Linear]], sign: str, result: Linear) -> str:
    symbols = f" {sign} ".join(symbol for symbol, _ in terms)
    numbers = f" {sign} ".join(_bracketed(form, sign) for _, form in terms)
    return f"{letter} = {symbols} = {numbers} = {result.show()}"


def _bracketed(form: Linear, sign: str) -> str:
    compound = form.slope and (form.offset or (sign == "*" and form.slope != 1))
    return f"( {form.show()} )" if compound and sign != "+" else form.show()
