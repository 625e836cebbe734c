"""The graft of two checkpoints, in a model that belongs to both."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from infosteer.errors import ConfigError
from infosteer.methods.params.grafting.learn import Batch, Loss, Search, learn_mask
from infosteer.methods.params.grafting.masks import (
    Mask,
    check_pair,
    density,
    inverse,
    magnitude_mask,
    movement_mask,
    random_mask,
)

KINDS = ("learned", "movement", "random", "magnitude")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Graft:
    """A graft that has been made.

    Attributes:
        mask: by parameter name, True where the trained value was taken.
        density: share of the weights that were taken, of those that may be.
        history: of a learnt mask: score (minus the loss) and density of the base mask and after every epoch.
    """

    mask: Mask
    density: float
    history: list[dict[str, float]]


@torch.no_grad()
def set_weights(
    model: nn.Module,
    start: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
    strength: float = 1.0,
) -> None:
    """Writes the graft into the model: ``theta_1`` where the mask holds, elsewhere ``(1 - s) theta_1 + s theta_0``."""
    parameters = dict(model.named_parameters())
    for name, part in mask.items():
        old, new = start[name].to(parameters[name]), trained[name].to(parameters[name])
        rest = old if strength == 1 else torch.lerp(new, old, strength)
        parameters[name].copy_(torch.where(part.to(old.device), new, rest))


def graft(
    model: nn.Module,
    start: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    batches: Sequence[Batch] = (),
    *,
    density: float = 0.01,
    mask: str = "learned",
    inverted: bool = False,
    search: Search | None = None,
    held_out: Sequence[Batch] = (),
    seed: int = 0,
    loss: Loss | None = None,
    score: Callable[[nn.Module], float] | None = None,
) -> Graft:
    """Puts few trained weights onto those from before training, and leaves the model holding the graft.

    Formula: ``theta(gamma) = gamma theta_1 + (1 - gamma) theta_0``, gamma in {0, 1}, a share ``density`` of ones when
    the search begins. Weights that training did not change take no part; leave embeddings and head out of
    ``start`` or ``trained`` to keep them out too.

    Args:
        model: the architecture of both; which weights it holds does not matter.
        start: theta_0, name -> weights, of a state dict or of the part that was trained.
        trained: theta_1.
        batches: model inputs with ``labels`` from the task's training rows, for a learnt mask.
        density: share of the weights in the (base) mask.
        mask: learned; or movement (the base of a learnt one), random, magnitude.
        inverted: take everything but the mask.
        search: how the mask is learnt.
        held_out: further batches of training rows that only choose between epochs; never of a test set.
        seed: of a random mask.
        loss: mean loss of a model on a batch; the model's own by default.
        score: of the model with a rounded graft, higher is better; minus the loss on both kinds of batches by default.

    Raises:
        ConfigError: weights of two models, nothing that training changed, or a learnt mask without batches.
    """
    parameters = {name: p for name, p in model.named_parameters() if name in trained and name in start}
    old, new = {name: start[name] for name in parameters}, {name: trained[name] for name in parameters}
    check_pair(old, new)
    parameters = {n: p for n, p in parameters.items() if not torch.equal(old[n].to(p), new[n].to(p))}
    if not parameters:
        raise ConfigError("the two checkpoints hold the same weights", where="grafting")
    old, new = (
        {n: old[n].to(p.device) for n, p in parameters.items()},
        {n: new[n].to(p.device) for n, p in parameters.items()},
    )
    if mask not in KINDS:
        raise ConfigError("unknown kind of mask", where="grafting.mask", got=mask, expected=", ".join(KINDS))
    history: list[dict[str, float]] = []
    if mask == "random":
        chosen = random_mask(new, density, seed)
    elif mask == "magnitude":
        chosen = magnitude_mask(new, density)
    else:
        chosen = movement_mask(old, new, density)
    if mask == "learned":
        if not batches:
            raise ConfigError("a learnt mask needs batches of the task", where="grafting.mask", got="no batches")
        measured, judged = loss or model_loss, [*batches, *held_out]

        def gradient(part: Sequence[Batch]) -> None:
            for batch in part:
                (measured(model, batch) / len(part)).backward()

        def rated(found: Mask) -> float:
            set_weights(model, old, new, found)
            if score is not None:
                return score(model)
            with torch.no_grad():
                return -sum(float(measured(model, batch)) for batch in judged) / len(judged)

        with _evaluating(model, parameters):
            learned = learn_mask(parameters, old, new, chosen, gradient, batches, rated, search or Search())
        chosen, history = learned.mask, learned.history
    chosen = inverse(chosen) if inverted else chosen
    set_weights(model, old, new, chosen)
    return Graft(mask=chosen, density=_density(chosen), history=history)


_density = density  # the argument of ``graft`` has its name


def model_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The model's own loss: the mean over labelled tokens."""
    device = next(model.parameters()).device
    found: Tensor = model(
        **{name: torch.as_tensor(value).to(device) for name, value in batch.items()}, use_cache=False
    ).loss
    return found


@contextlib.contextmanager
def _evaluating(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Dropout off, gradients of the grafted weights alone; gradients and flags are put back."""
    training = model.training
    flags = {p: (p.requires_grad, p.grad) for p in model.parameters()}
    wanted = {id(p) for p in parameters.values()}
    try:
        model.eval()
        for p in flags:
            p.requires_grad_(id(p) in wanted)
            p.grad = None
        with torch.enable_grad():
            yield
    finally:
        model.train(training)
        for p, (trains, gradient) in flags.items():
            p.grad = None
            p.requires_grad_(trains)
            p.grad = gradient
