"""Gated FFNs whose forward computes activation, product, edit and entropy in one go, where kernels do that.

A session puts a forward of its own on a feed-forward module only where nothing else would be passed over by it: the
class's forward gives, bit by bit, ``down(act(gate(x)) * up(x))``, there are no other children, and a kernel takes the
rows. In each call it asks again; where something wants to see or to edit the coefficients beside the kernel
(measurements, probes, other methods, hooks on the activation or on the down projection), the steps are made one by one
and the site's hook does the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from infosteer.core.hooks import SiteHook
from infosteer.core.sharding import is_sharded
from infosteer.models import Role, Site
from infosteer.ops.backends import kernels_take

if TYPE_CHECKING:
    from infosteer.core.session import Session

logger = logging.getLogger(__name__)

_PROOF_ROWS = 3


class FusedForward:
    """The forward of one gated FFN; a copy of the model (a frozen reference, a pickle) gets the class's own back.

    Args:
        session: whose steering it does; None for a copy.
        hook: the site's hook, which has nothing left to do after a fused call.
        module: the feed-forward module.
        names: its children: gate, up, down and activation.
    """

    def __init__(
        self, session: Session | None, hook: SiteHook | None, module: nn.Module, names: tuple[str, str, str, str]
    ) -> None:
        self.session, self.hook, self.module, self.names = session, hook, module, names

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.session is None or len(args) != 1 or kwargs or torch.compiler.is_compiling():
            plain: Tensor = type(self.module).forward(self.module, *args, **kwargs)
            return plain
        (x,) = args
        gate_proj, up_proj, down_proj, act = (getattr(self.module, name) for name in self.names)
        gate, up = gate_proj(x), up_proj(x)
        if _alone(act, down_proj) and gate.dtype == up.dtype and kernels_take(gate):
            fused = self._steered(gate, up, act, down_proj)
            if fused is not None:
                return fused
        result: Tensor = down_proj(act(gate) * up)
        return result

    def _steered(self, gate: Tensor, up: Tensor, act: nn.Module, down_proj: nn.Module) -> Tensor | None:
        """What the module gives; None where its coefficients are to be computed first."""
        session, hook, activation = self.session, self.hook, activation_of(act)
        if session is None or hook is None or hook.plan is None or activation is None:
            return None
        k = session.at_gated(hook.plan, gate, up, activation)
        if k is None:
            return None
        hook.done = True
        try:
            result: Tensor = down_proj(k)
        finally:
            hook.done = False  # also where the projection failed before its hook was asked
        return result

    def remove(self) -> None:
        """Gives the module its class's forward back, unless somebody has put another one there since."""
        if vars(self.module).get("forward") is self:
            del self.module.forward
        self.session = None

    def __deepcopy__(self, memo: dict[int, Any]) -> FusedForward:
        copied = FusedForward(None, None, self.module, self.names)
        memo[id(self)] = copied
        copied.module = memo.get(id(self.module), self.module)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {"session": None, "hook": None, "module": self.module, "names": self.names}


def fuse(session: Session, site: Site, hook: SiteHook) -> FusedForward | None:
    """Puts a fused forward on the module around a site; None, and nothing changed, where it would not be the same."""
    module = site.enclosing[1]
    names = _children(site)
    weights = list(module.parameters())
    elsewhere = any(is_sharded(weight) or weight.is_meta or not weight.numel() for weight in weights)
    if names is None or "forward" in vars(module) or elsewhere or not weights:
        return None
    rows = torch.empty(1, site.width, device=weights[0].device)
    if not kernels_take(rows) or not _is_product(module, names, site.hidden):
        return None
    forward = FusedForward(session, hook, module, names)
    module.forward = forward
    return forward


def activation_of(act: Any) -> str | None:
    """The name that ``ops.gated`` has for an activation module, None for any other."""
    kind = type(act).__name__
    if kind in ("SiLU", "SiLUActivation"):
        return "silu"
    tanh = kind in ("GELUTanh", "PytorchGELUTanh") or (kind == "GELU" and getattr(act, "approximate", "") == "tanh")
    return "gelu_tanh" if tanh else None


def _children(site: Site) -> tuple[str, str, str, str] | None:
    """Names of gate, up, down and activation, if these are all that the module around the site has."""
    path, module = site.enclosing
    gate, up = (_child(path, site.roles[role]) for role in ("gates", "keys"))
    down = site.name.rpartition(".")[2]
    children = dict(module.named_children())
    rest = [name for name in children if name not in (gate, up, down)]
    if not site.gated or gate is None or up is None or gate == up or len(rest) != 1:
        return None
    return (gate, up, down, rest[0]) if activation_of(children[rest[0]]) else None


def _child(path: str, roles: Sequence[Role]) -> str | None:
    """The name of the one whole projection that plays a role, if it is a child of the module at ``path``."""
    if len(roles) != 1 or roles[0].rows is not None:
        return None
    parent, _, name = roles[0].path.rpartition(".")
    return name if parent == path else None


def _is_product(module: nn.Module, names: tuple[str, str, str, str], hidden: int) -> bool:
    """Whether the module's forward is, bit by bit, what a fused forward computes in steps; False where it cannot be
    asked (packed weights of some kinds)."""
    gate, up, down, act = (getattr(module, name) for name in names)
    some = next(module.parameters())
    kind = some.dtype if some.is_floating_point() and some.element_size() >= 2 else torch.float32
    devices = [some.device] if some.is_cuda else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            numbers = torch.Generator().manual_seed(0)
            x = torch.randn(1, _PROOF_ROWS, hidden, generator=numbers).to(device=some.device, dtype=kind)
            torch.manual_seed(0)  # adapters may drop
            expected = type(module).forward(module, x)
            torch.manual_seed(0)
            return torch.equal(expected, down(act(gate(x)) * up(x)))
    except Exception as error:  # whatever packed weights raise: then the steps stay apart
        logger.debug("%s keeps its own forward: %s", type(module).__name__, error)
        return False


def _alone(act: nn.Module, down_proj: nn.Module) -> bool:
    """Whether no hook but the site's waits for the activation's output or for the coefficients."""
    busy = act._forward_hooks or act._forward_pre_hooks or act._backward_hooks or act._backward_pre_hooks
    everywhere = torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
    return not busy and not everywhere and len(down_proj._forward_pre_hooks) == 1


def fuse_all(session: Session, hooks: Sequence[SiteHook]) -> list[FusedForward]:
    """Fused forwards for all sites whose plan a kernel may do as a whole."""
    plans = [(hook, hook.plan) for hook in hooks if hook.plan is not None and hook.plan.fusible]
    found = (fuse(session, plan.site, hook) for hook, plan in plans)
    return [forward for forward in found if forward is not None]
