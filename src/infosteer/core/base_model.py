"""The model as it was when steering began, for methods that compare the model in training with it or ask it.

Shape letters: N rows of a call, D hidden, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.core.ledger import Call
from infosteer.core.sharding import refuse_absent
from infosteer.errors import AttachError
from infosteer.models import CHUNK_ROWS, final_norm, head_logits, output_head


class BaseModel:
    """A frozen copy of a model that reads what the model reads, in evaluation mode.

    It costs the weights once more in memory, and a forward without gradient for each call.

    Raises:
        ArchitectureError: a model without a language-model head.
        AttachError: weights that this process does not hold, or not yet.
    """

    def __init__(self, model: nn.Module) -> None:
        refuse_absent(model)
        self._model = copy.deepcopy(model).requires_grad_(False).eval()
        # Trainers put functions in the place of a model's forward, and those call the model that they were made for.
        for module in self._model.modules():
            vars(module).pop("forward", None)
        self._seen: Tensor | None = None
        # The head is applied in chunks later on; nobody needs all logits at once.
        known = inspect.signature(self._model.forward).parameters
        self._settings: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        output_head(self._model)
        final_norm(self._model).register_forward_hook(self._keep)

    @torch.no_grad()
    def hidden(self, call: Call) -> Tensor:
        """Final hidden states of a call's tokens, (N, D); computed once.

        Raises:
            AttachError: the call goes on from a cache.
        """
        assert call.ids is not None
        if call.base_hidden is not None:
            return call.base_hidden
        if call.continued:
            raise AttachError(
                "the model before training is asked about whole sequences, and this call goes on from a cache",
                where="the model call",
                got="past_key_values that hold tokens",
                fix="call the model with the whole sequence",
            )
        if next(self._model.parameters()).device != call.ids.device:
            self._model.to(call.ids.device)
        self._model(input_ids=call.ids, **call.inputs, use_cache=False, **self._settings)
        assert self._seen is not None
        call.base_hidden, self._seen = self._seen.reshape(-1, self._seen.shape[-1]), None
        return call.base_hidden

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Of hidden states (n, D), (n, V) fp32; fp64 stays."""
        logits = head_logits(self._model, hidden)
        return logits if logits.dtype == torch.float64 else logits.float()

    @torch.no_grad()
    def entropy(self, call: Call) -> Tensor:
        """How uncertain it is of the token after each row of a call: entropy in nats, (N,) fp32."""
        hidden = self.hidden(call)
        found = []
        for start in range(0, len(hidden), CHUNK_ROWS):
            shares = self.logits(hidden[start : start + CHUNK_ROWS]).softmax(-1)
            found.append(torch.special.entr(shares).sum(-1).float())
        return torch.cat(found)

    def _keep(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._seen = output
