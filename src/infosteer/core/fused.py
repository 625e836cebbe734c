"""Gated FFNs whose forward computes activation, product, edit and entropy in one go, where kernels do that.

A session puts a forward of its own on a feed-forward module only where nothing would be passed over by it: the class's
forward reads ``down(act(gate(x)) * up(x))`` and nothing else, there are no other children, the activation is the one
that the kernel has, and a kernel takes the rows. In each call it asks again; where something wants to see or to edit
the coefficients beside the kernel (measurements, probes, other methods, hooks on the activation or on the down
projection), the class's own forward runs and the site's hook does the rest.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from infosteer.core.hooks import SiteHook
from infosteer.core.sharding import is_sharded
from infosteer.models import Role, Site
from infosteer.ops.backends import kernels_take
from infosteer.ops.gated_rows import activate

if TYPE_CHECKING:
    from infosteer.core.session import Session


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
        self.own = type(module).forward

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        own = type(self.module).forward
        if self.session is None or len(args) != 1 or kwargs or own is not self.own or torch.compiler.is_compiling():
            plain: Tensor = own(self.module, *args, **kwargs)
            return plain
        gate_proj, up_proj, down_proj, act = (getattr(self.module, name) for name in self.names)
        (x,) = args
        activation = activation_of(act)
        if self.hook is None or self.hook.plan is None or activation is None or not _alone(act, down_proj):
            return own(self.module, x)
        if not self.session.fuses(self.hook.plan, x):
            return own(self.module, x)
        gate, up = gate_proj(x), up_proj(x)
        fits = gate.dtype == up.dtype and kernels_take(gate)
        k = self.session.at_gated(self.hook.plan, gate, up, activation) if fits else act(gate) * up
        self.hook.done = fits
        try:
            result: Tensor = down_proj(k)
        finally:
            self.hook.done = False  # also where the projection failed before its hook was asked
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
        return copied  # inert; the next session takes it away

    def __getstate__(self) -> dict[str, Any]:
        return {"session": None, "hook": None, "module": self.module, "names": self.names, "own": None}


def fuse(session: Session, site: Site, hook: SiteHook) -> FusedForward | None:
    """Puts a fused forward on the module around a site; None, and nothing changed, where it would not be the same."""
    module = site.enclosing[1]
    left = vars(module).get("forward")
    if isinstance(left, FusedForward) and left.session is None:
        del module.forward  # of a session that this model is a copy of
    names = _children(site)
    weights = list(module.parameters())
    elsewhere = any(is_sharded(weight) or weight.is_meta or not weight.numel() for weight in weights)
    if names is None or "forward" in vars(module) or elsewhere or not weights:
        return None
    rows = torch.empty(1, site.width, device=weights[0].device)
    if not kernels_take(rows) or not _reads_as_product(module, names) or not _is_known(getattr(module, names[3])):
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


def _reads_as_product(module: nn.Module, names: tuple[str, str, str, str]) -> bool:
    """Whether the source of the class's forward is ``down(act(gate(x)) * up(x))``: numbers would not show a clamp that
    does not bind, or a dropout that is switched off."""
    gate, up, down, act = names
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return False
    if not isinstance(function, ast.FunctionDef) or function.decorator_list or len(function.args.args) != 2:
        return False
    own, x = (argument.arg for argument in function.args.args)
    wanted = f"{own}.{down}({own}.{act}({own}.{gate}({x})) * {own}.{up}({x}))"
    steps = [
        step for step in function.body if not (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
    ]
    match steps:
        case [ast.Return(value=ast.expr() as result)]:
            return ast.unparse(result) == wanted
        case [ast.Assign(targets=[ast.Name(id=name)], value=result), ast.Return(value=ast.Name(id=given))]:
            return name == given and ast.unparse(result) == wanted
    return False


def _is_known(act: nn.Module) -> bool:
    """Whether an activation computes what the kernel's activation of its name is."""
    name = activation_of(act)
    numbers = torch.linspace(-30, 30, 601)
    try:
        return name is not None and torch.equal(act(numbers), activate(numbers, name))
    except (RuntimeError, TypeError, ValueError):
        return False


def _alone(act: nn.Module, down_proj: nn.Module) -> bool:
    """Whether nothing but the site's hook waits for the activation's output or for the coefficients."""
    busy = act._forward_hooks or act._forward_pre_hooks or act._backward_hooks or act._backward_pre_hooks
    forwards = torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
    backwards = torch_module._global_backward_hooks or torch_module._global_backward_pre_hooks
    patched = "forward" in vars(act)
    return not (busy or forwards or backwards or patched) and len(down_proj._forward_pre_hooks) == 1


def fuse_all(session: Session, hooks: Sequence[SiteHook]) -> list[FusedForward]:
    """Fused forwards for all sites whose plan a kernel may do as a whole."""
    plans = [(hook, hook.plan) for hook in hooks if hook.plan is not None and hook.plan.fusible]
    found = (fuse(session, plan.site, hook) for hook, plan in plans)
    return [forward for forward in found if forward is not None]
