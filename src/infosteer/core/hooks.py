"""The hooks a session puts on a model: one before each site, and a pair around every module that may be the root."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo.config
from torch import Tensor, nn

from infosteer.core.marks import split_marks
from infosteer.core.plans import SitePlan
from infosteer.errors import ArchitectureError, AttachError
from infosteer.models import Site, decoder_blocks, main_stream, memory_vectors, states_of

if TYPE_CHECKING:
    from infosteer.core.session import Session


class SiteHook:
    """Pre-hook of a down projection. A copy of the model (a frozen reference, a pickle) gets an inert one."""

    def __init__(self, session: Session | None, plan: SitePlan | None) -> None:
        self.session, self.plan = session, plan
        self.done = False  # while the coefficients that come were steered where they were made
        self._shielded: Tensor | None = None  # from before the projection until after it

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.session is None or self.plan is None or self.done:
            return None
        k: Tensor = args[0]
        edited, self._shielded = self.session.at_site(self.plan, k)
        return None if edited is k else (edited, *args[1:])

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Adds what shielded coefficients contribute, through memory vectors that are held constant."""
        shielded, self._shielded = self._shielded, None
        if shielded is None or self.plan is None:
            return None
        return output + shielded @ memory_vectors(self.plan.site).to(shielded.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> SiteHook:
        return SiteHook(None, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return SiteHook, (None, None)


class HiddenHook:
    """Post-hook of the final norm: keeps its output for the call under way. Where a family uses the same module before
    its first layer as well, the last output stays."""

    def __init__(self, session: Session | None) -> None:
        self.session = session

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.session is not None and (call := self.session.calls.current) is not None:
            call.hidden = output

    def __deepcopy__(self, memo: dict[int, Any]) -> HiddenHook:
        return HiddenHook(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return HiddenHook, (None,)


class BlockHook:
    """Post-hook of a decoder layer: lets interventions edit its output, and shows it to the probes that read layers."""

    def __init__(self, session: Session | None, layer: int) -> None:
        self.session, self.layer = session, layer

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self.session is None:
            return None
        states = states_of(output)
        edited = self.session.at_layer(self.layer, states)
        if (call := self.session.calls.current) is not None and call.observed:
            self.session.probes.show_layer(call, self.layer, main_stream(self.session.model, edited))
        if edited is states:
            return None
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    def __deepcopy__(self, memo: dict[int, Any]) -> BlockHook:
        return BlockHook(None, self.layer)

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockHook, (None, self.layer)


class EntryHook:
    """Pre- and post-hook of a module that encloses every site. The outermost one that runs opens and closes the call;
    the inner ones only tell it about their inputs."""

    def __init__(self, session: Session | None) -> None:
        self.session = session

    @torch.compiler.disable
    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Opens the call, or adds to it. Marks of tokens are taken out of the arguments: no model knows them."""
        if self.session is None:
            return None
        if self.session.calls.enter(module):
            self.session.open_call(module)
        rest, marks = split_marks(kwargs)
        if (call := self.session.calls.current) is not None:
            call.read_inputs(module, args, rest, self.session.labels_hint)
            call.marks |= marks
        return (args, rest) if marks else None

    @torch.compiler.disable
    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Closes the call that ``before`` opened; runs even when the forward failed (then output is None)."""
        if self.session is not None and (call := self.session.calls.leave(module)) is not None:
            self.session.close_call(call, output)

    def before_inside(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """``before`` for all but the outermost module: a graph is broken only where there is something to learn."""
        if self.session is not None and torch.compiler.is_compiling() and self.session.calls.told(module, kwargs):
            return None
        return self.before(module, args, kwargs)

    def after_inside(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """``after`` for all but the outermost module."""
        if self.session is None or (torch.compiler.is_compiling() and not self.session.calls.opened_by(module)):
            return
        self.after(module, args, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> EntryHook:
        return EntryHook(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return EntryHook, (None,)


def make_compilers_see_hooks() -> None:
    """Lets compiled code belong to the hooks that it was traced with.

    Left alone, the compiler gives two models of one class the same code whatever their hooks are: a frozen reference
    that was compiled first would leave the steered model's sites silent.
    """
    if torch._dynamo.config.skip_nnmodule_hook_guards:
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        torch.compiler.reset()  # what was traced before does not ask for hooks; it is traced again when it is called


def entry_hooks(session: Session, model: nn.Module, site_names: Sequence[str]) -> list[Any]:
    """Puts entry hooks on the model and on every module between it and its decoder layers."""
    make_compilers_see_hooks()
    handles: list[Any] = []
    levels = zip(*(name.split(".") for name in site_names), strict=False)
    common = [names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, levels)]
    for depth in range(len(common) + 1):
        module = model.get_submodule(".".join(common[:depth]))
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)) or module in {site.module for site in session.sites}:
            break
        hook = EntryHook(session)
        # Prepended, so that a user's own pre-hook on the model already runs inside the call.
        before, after = (hook.before_inside, hook.after_inside) if depth else (hook.before, hook.after)
        handles.append(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
        handles.append(module.register_forward_hook(after, always_call=True))
    return handles


def block_hooks(session: Session, model: nn.Module) -> list[Any]:
    """Puts a hook on every decoder layer whose output some method of the session edits or reads.

    Raises:
        ArchitectureError: an edit of a layer that is used for several.
    """
    layers = session.probes.read_layers | session.state_edits.keys()
    blocks = decoder_blocks(model) if layers else []
    for layer in session.state_edits:
        if sum(block is blocks[layer][1] for _, block in blocks) > 1:
            raise ArchitectureError(
                "a decoder layer that serves several layers cannot have its output edited",
                where=blocks[layer][0],
                got=type(blocks[layer][1]).__name__,
            )
    return [blocks[layer][1].register_forward_hook(BlockHook(session, layer)) for layer in sorted(layers)]


def refuse_unsteerable(model: nn.Module) -> None:
    """Refuses models on which hooks would be ignored, or be there twice.

    Raises:
        AttachError: naming the cause and the way out.
    """
    for name, module in model.named_modules():
        if any(isinstance(hook, SiteHook) and hook.session for hook in module._forward_pre_hooks.values()):
            raise AttachError(
                "the model is steered already",
                where=name,
                fix="call .remove() on its session first, or give all methods in one list",
            )
        if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise AttachError(
                "the model is compiled already: hooks added now would be ignored without a word",
                where=name or type(model).__name__,
                fix="steer or attach first, then call torch.compile",
            )


def refuse_rewrapped(model: nn.Module, sites: Sequence[Site]) -> None:
    """Refuses a model whose down projections were wrapped (PEFT) after the hooks went on: the adapter's path would see
    the unedited coefficients.

    Raises:
        AttachError: naming the first such site.
    """
    for site in sites:
        for name, module in model.named_modules():
            if getattr(module, "base_layer", None) is site.module:
                raise AttachError(
                    "the model was wrapped by adapters after it was steered",
                    where=name,
                    fix="call get_peft_model first, then steer or attach",
                )


def adapter_layers(model: nn.Module) -> list[nn.Module]:
    """PEFT's adapter layers in the model."""
    return [module for module in model.modules() if isinstance(getattr(module, "disable_adapters", None), bool)]


def adapters_off(layers: Sequence[Any]) -> bool:
    """Whether all adapters are switched off: a reference pass through the modules of the policy."""
    return bool(layers) and all(layer.disable_adapters for layer in layers)
