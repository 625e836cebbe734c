"""The probes of a session: when each one looks, what it is shown, what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.core.asking import AskingProbe
from infosteer.core.contract import Method
from infosteer.core.ledger import Call
from infosteer.core.metrics import PREFIX
from infosteer.core.registry import key_of
from infosteer.core.surfaces import Observer, ProbeMethod
from infosteer.core.token_losses import predictions
from infosteer.core.usage import show_text
from infosteer.models import Site


class Probes:
    """Probe methods with their observers, by index in the session."""

    def __init__(self, methods: Sequence[Method], sites: Sequence[Site]) -> None:
        watching = (i for i, m in enumerate(methods) if isinstance(m, ProbeMethod) and not isinstance(m, AskingProbe))
        self.methods: dict[int, Any] = {i: methods[i] for i in watching if not methods[i].off}
        self.observers: dict[int, Observer] = {
            index: probe.observer(probe.select(sites)) for index, probe in self.methods.items()
        }
        self._layers = {
            index: frozenset(site.layer for site in probe.select(sites)) if probe.reads_layers else frozenset()
            for index, probe in self.methods.items()
        }
        self._last_step = dict.fromkeys(self.methods, -1)  # at which each one has looked

    def calibrate(self, model: nn.Module, sites: Sequence[Site], batches: Iterable[Mapping[str, Any]] | None) -> None:
        """Shows the calibration text, as the model reads it now, to the probes that begin with it.

        Raises:
            ConfigError: a probe that needs it, and none was given.
        """
        layers = {i: {site.layer for site in m.select(sites)} for i, m in self.methods.items() if m.calibrates}
        if not layers:
            return

        def begin(ids: Tensor, kept: Tensor) -> None:
            for index in layers:
                self.observers[index].begin(ids)

        def see(layer: int, k: Tensor, kept: Tensor) -> None:
            for index in layers:
                if layer in layers[index]:
                    self.observers[index].see(layer, k, kept)

        read = set().union(*layers.values())
        show_text(model, [site for site in sites if site.layer in read], batches, begin, see)
        for index in layers:
            self.observers[index].calibrated()

    @property
    def read_hidden(self) -> bool:
        """Whether any probe wants the final hidden states."""
        return any(probe.reads_hidden or probe.reads_predictions for probe in self.methods.values())

    @property
    def read_layers(self) -> frozenset[int]:
        """Layers whose output any probe wants."""
        return frozenset().union(*self._layers.values())

    def looking(self, call: Call) -> frozenset[int]:
        """Probes that look at a call; one that begins another observed step of training forgets the last one."""
        found = set()
        for index, probe in self.methods.items():
            if call.strengths[index] == 0 or not call.in_scope(probe.scope):
                continue
            if call.training:
                if call.step % probe.every:
                    continue
                if self._last_step[index] != call.step:
                    self.observers[index].reset()
                self._last_step[index] = call.step
            found.add(index)
        return frozenset(found)

    @torch.compiler.disable
    def show_hidden(self, call: Call, model: nn.Module) -> None:
        """Shows final hidden states of a closed call, or what the head makes of them, to the probes that want them."""
        hidden: Any = call.hidden
        rows = hidden.detach().reshape(-1, hidden.shape[-1])
        with torch.no_grad():
            for index in call.observed:
                if self.methods[index].reads_hidden:
                    self.observers[index].see_hidden(rows, self._weight(call, index, rows))
                if self.methods[index].reads_predictions and call.ids is not None and call.lines_up(rows):
                    weight = self._weight(call, index, rows)
                    self.observers[index].see_predictions(*predictions(model, call, rows, weight), weight)

    @torch.compiler.disable
    def show_layer(self, call: Call, layer: int, states: Tensor) -> None:
        """Shows a layer's output (..., D) to the probes that want it."""
        rows = states.detach().reshape(-1, states.shape[-1])
        with torch.no_grad():
            for index in call.observed:
                if layer in self._layers[index]:
                    self.observers[index].see_layer(layer, rows, self._weight(call, index, rows))

    def _weight(self, call: Call, index: int, rows: Tensor) -> Tensor | None:
        if self.methods[index].reads_all_tokens:
            return call.token_weight(rows)
        return call.row_weight(rows) if call.lines_up(rows) else None

    def reset(self) -> None:
        """Lets every probe forget what it has seen."""
        for observer in self.observers.values():
            observer.reset()

    def metrics(self) -> Mapping[str, float]:
        """``infosteer/<probe>/<metric>`` over what each probe has seen since its last reset."""
        return {
            f"{PREFIX}{key_of(type(self.methods[index])).split('/')[1]}/{name}": value
            for index, observer in self.observers.items()
            for name, value in observer.metrics().items()
        }
