"""The six surfaces that a method can touch, one base class each.

| surface | the class's hook | gets | gives |
|---|---|---|---|
| interventions | ``edit(k, context)`` | key coefficients (..., M), or states (..., D) | the same, edited |
| penalties | ``rows(k)``, ``rows_gradient(k)`` | key coefficients (..., M) | values (...) and gradient (..., M) |
| losses | ``per_token(losses, tokens, context)`` | losses (N,), logits and targets | losses (N,) |
| params | ``apply(target)`` | the model's parameters, sites and their use | a handle that acts around optimizer steps |
| data | ``transform(rows, context)`` | the training rows | the rows to train on instead |
| probes | ``observer(sites)`` | key coefficients, final hidden states, predictions | an observer that sums up metrics |

Shape letters: N rows of a call, M memories, D hidden, V vocabulary.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from infosteer.core.config import setting
from infosteer.core.contract import Context, Method, SiteMethod
from infosteer.core.data import DataMethod
from infosteer.core.marks import MarkingMethod
from infosteer.core.params import Handle, ParamMethod, ParamTarget
from infosteer.models import Site

SCOPES = ("train", "policy", "evaluation", "always")


class GatedEdit(Protocol):
    """``edit(act(gate) * up)``, and with a normalization the entropy of its rows, as ``ops.gated`` gives them."""

    def __call__(
        self, gate: Tensor, up: Tensor, activation: str, context: Context, normalization: str | None
    ) -> tuple[Tensor, Tensor | None]: ...


@dataclasses.dataclass(kw_only=True)
class InterventionMethod(MarkingMethod, SiteMethod):
    """Surface ``interventions``: edits key coefficients, or what layers put out, in the forward pass."""

    edits_states: ClassVar[bool] = False  # whether ``edit`` gets a layer's output (..., D) instead of coefficients
    takes_tensors: ClassVar[bool] = False  # whether ``Context.strength`` may be a tensor, which a compiler asks for
    scope: str = setting(
        "train",
        "train: training forwards only; policy: also no-grad forwards of the trained policy; evaluation: forwards in "
        "evaluation mode only; always: every forward",
        choices=SCOPES,
    )

    @abc.abstractmethod
    def edit(self, k: Tensor, context: Context) -> Tensor:
        """Edited coefficients for k (..., M); same shape and dtype, never in place, k itself at strength 0."""

    def edit_and_inject(
        self, k: Tensor, context: Context, penalty: PenaltyMethod, row_weight: Tensor | None, scale: Tensor
    ) -> Tensor | None:
        """``edit``, and the penalty's gradient added in the same backward pass as ``ops.inject`` adds it; None where no
        back end does both at once. Only asked of the last edit of a site."""
        return None

    @property
    def edit_gated(self) -> GatedEdit | None:
        """The same edit inside the gated activation, for methods that have one; see ``GatedEdit``."""
        return None

    @property
    def shields(self) -> bool:
        """Whether memory vectors whose coefficient was edited get no gradient from that row."""
        return False

    @property
    def selects(self) -> bool:
        """Whether its context must say which rows carry loss."""
        return False

    @property
    def reads_base(self) -> bool:
        """Whether its context must say how uncertain the model before training is, which costs a second forward."""
        return False


@dataclasses.dataclass(kw_only=True)
class PenaltyMethod(SiteMethod):
    """Surface ``penalties``: adds ``coefficient * sum over layers and rows of rows(k)`` to the loss, rows that carry
    loss only, divided by the token count of the task loss."""

    @abc.abstractmethod
    def rows(self, k: Tensor) -> Tensor:
        """Value per row: k (..., M) -> (...), fp32 (fp64 for fp64), differentiable."""

    @abc.abstractmethod
    def coefficient(self, num_layers: int, width: int) -> float:
        """What one row's value in one layer is multiplied by at strength 1, before dividing by the token count."""

    @property
    def entropy_normalization(self) -> str | None:
        """As in ``ops.entropy.key_entropy``, where the value of a row is its key entropy; else None."""
        return None

    def rows_gradient(self, k: Tensor) -> Tensor:
        """d rows / d k, (..., M). This default asks autograd; a closed form is cheaper in time and memory."""
        with torch.enable_grad():
            leaf = k.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.rows(leaf).sum(), leaf)
        return gradient

    def add_rows_gradient(self, k: Tensor, gradient: Tensor, factor: Tensor) -> Tensor | None:
        """``gradient + factor * rows_gradient(k)`` (R, M) with factor (R,), where a back end does it in one pass over
        rows k (R, M); None where none does."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Rows of one call that predict a token, for losses.

    Attributes:
        logits: (N, V) fp32, with gradient.
        targets: (N,) the tokens that followed, labelled or not.
        counted: (N,) bool, rows whose target carries loss; for the others the losses begin at 0.
        marks: (N,) the method's own numbers for the targets; None where the model was called without them.
        earlier: ``earlier(lags)``, lags (N,) of whole numbers -> (N,) fp32 without gradient: log-likelihood of the
            target that came so many rows before in the same sequence, NaN where there is none (and where the lag is
            below 1); None where the method does not set ``looks_back``.
        hidden: (N, D) final hidden states, with gradient; None where the method does not set ``reads_hidden``.
        handle: what the method's ``apply`` gave.
        base: (N, V) fp32 without gradient, the logits of the model as it was when steering began; None where the
            method does not set ``reads_base``.
    """

    logits: Tensor
    targets: Tensor
    counted: Tensor
    marks: Tensor | None = None
    earlier: Callable[[Tensor], Tensor] | None = None
    hidden: Tensor | None = None
    handle: Handle | None = None
    base: Tensor | None = None


@dataclasses.dataclass(kw_only=True)
class LossMethod(MarkingMethod, Method):
    """Surface ``losses``: what each token contributes to the loss.

    The task loss becomes ``L + s/n sum_t (f(l)_t - l_t)``, l_t the negative log-likelihood of a row that carries loss
    and 0 for other rows, n what the task loss is divided by, s strength; several methods apply in recipe order.
    """

    reads_prompts: ClassVar[bool] = False  # whether it is shown rows that carry no loss as well
    looks_back: ClassVar[bool] = False  # whether it asks for ``Tokens.earlier``, which costs the head's forward again
    reads_base: ClassVar[bool] = False  # whether it asks for ``Tokens.base``, which costs a second model's forward

    @abc.abstractmethod
    def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
        """New losses (N,) from losses (N,), fp32, differentiable; a row's loss may depend on its own row alone, and
        on ``tokens.earlier`` within its sequence."""

    @property
    def reads_hidden(self) -> bool:
        """Whether it asks for ``Tokens.hidden``."""
        return False

    def apply(self, target: ParamTarget) -> Handle | None:
        """What the method needs besides the model, such as weights of its own, which the handle then trains around
        optimizer steps; runs when steering begins. It comes back as ``Tokens.handle``."""
        return None

    def measured(self, losses: Tensor, tokens: Tokens) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums and counts by name, without gradient; their quotient over a step is logged as
        ``infosteer/<name>/<metric>``. ``losses`` as for ``per_token``."""
        return {}


class Observer(abc.ABC):
    """What a probe leaves in a session: it is shown tensors without gradient and answers with numbers."""

    def begin(self, ids: Tensor | None) -> None:  # noqa: B027 - few probes need it
        """A forward begins to be shown: its tokens (B, T), rows of k being in their order; None where the model was
        called without them, or where its layers see other positions (prompt tuning)."""

    @abc.abstractmethod
    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        """Key coefficients k (N, M) of a layer as the down projection gets them; weight (N,) by row, None for all 1."""

    def see_hidden(self, hidden: Tensor, weight: Tensor | None) -> None:  # noqa: B027 - few probes need it
        """Hidden states (N, D) after the final norm; only called where ``ProbeMethod.reads_hidden``."""

    def see_predictions(self, losses: Tensor, right: Tensor, weight: Tensor | None) -> None:  # noqa: B027 - as above
        """What every row (N) says of the token that follows it: its negative log-likelihood (fp32, nats) and whether
        it is the likeliest; NaN and false where none follows or the row does not count (weight 0). Only called where
        ``ProbeMethod.reads_predictions``."""

    def see_layer(self, layer: int, states: Tensor, weight: Tensor | None) -> None:  # noqa: B027 - as above
        """Hidden states (N, D) as the decoder layer puts them out; only called where ``ProbeMethod.reads_layers``."""

    def calibrated(self) -> None:  # noqa: B027 - few probes need it
        """What was seen until now was the calibration text, read by the model before training."""

    @abc.abstractmethod
    def metrics(self) -> dict[str, float]:
        """Values by name, over everything seen since the last reset; empty when nothing was."""

    @abc.abstractmethod
    def reset(self) -> None:
        """Forgets what was seen."""


@dataclasses.dataclass(kw_only=True)
class ProbeMethod(SiteMethod):
    """Surface ``probes``: reads only. In training its metrics are logged as ``infosteer/<name>/<metric>``."""

    reads_hidden: ClassVar[bool] = False
    reads_predictions: ClassVar[bool] = False  # whether it is shown how well tokens are predicted: the head once more
    calibrates: ClassVar[bool] = False  # whether its observers are shown the calibration text when steering begins
    every: int = setting(10, "optimizer steps between two observed steps", low=1)
    scope: str = setting("train", "which forwards are observed, as for interventions", choices=SCOPES)

    @property
    def reads_layers(self) -> bool:
        """Whether it is shown the hidden states that its layers put out."""
        return False

    @property
    def reads_all_tokens(self) -> bool:
        """Whether hidden states come with weight 1 for every token, instead of those that carry loss."""
        return False

    @abc.abstractmethod
    def observer(self, sites: Sequence[Site]) -> Observer:
        """A new observer for the chosen sites."""


SURFACES: dict[str, type[Method]] = {
    "interventions": InterventionMethod,
    "penalties": PenaltyMethod,
    "losses": LossMethod,
    "params": ParamMethod,
    "data": DataMethod,
    "probes": ProbeMethod,
}
