"""``--model infosteer`` of lm-evaluation-harness: a steered model, read by this package's engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from infosteer.errors import ConfigError, InfoSteerError
from infosteer.evaluation.harness.engine import encode_each, encode_pairs, score_pairs
from infosteer.evaluation.harness.steered import Loaded, load_steered
from infosteer.evaluation.harness.writing import style_of, write
from infosteer.evaluation.model_state import device_of, prefix_id, prompt_text, unwrapped

Progress = Callable[[str, int, int], None]
BATCH_SIZE = 64


class SteeredLM(TemplateLM):
    """Any causal language model, with the methods that act at evaluation attached.

    Args:
        pretrained: ``embedded``, ``embedded:reasoning``, a folder or a hub id; or a model, steered or not, with its
            tokenizer as ``tokenizer``.
        methods, arm, dtype, device: see ``load_steered``.
        batch_size: sequences in one forward; ``auto`` means 64.
        max_batch_size: accepted, since lm-eval passes it; not needed.
        max_length: longest sequence in tokens; the model's own where it is not given.
        seed: of draws, for tasks that sample.
        progress: called as ``progress(what, done, total)``.

    Attributes:
        cut: requests whose context was cut from the left to fit the model.
        unfinished: texts that ended at their limit of new tokens.

    Raises:
        ConfigError: settings that cannot be used; ``trust_remote_code`` is one.
    """

    def __init__(
        self,
        pretrained: Any = "embedded",
        *,
        methods: Any = None,
        arm: str | None = None,
        tokenizer: Any = None,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str = BATCH_SIZE,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        **other: Any,
    ) -> None:
        super().__init__()
        if other:
            raise ConfigError(
                "the model `infosteer` has no such setting",
                where="model_args",
                got=", ".join(other),
                expected="pretrained, methods, arm, tokenizer, dtype, device, batch_size, max_length, seed",
                fix="remote code is never trusted here" if "trust_remote_code" in other else None,
            )
        self._batch_size = BATCH_SIZE if str(batch_size).startswith("auto") else int(batch_size)
        if self._batch_size < 1:
            raise ConfigError("batch_size must be at least 1", where="model_args", got=batch_size)
        if isinstance(pretrained, str):
            self.loaded = load_steered(
                pretrained, methods=methods, arm=arm, tokenizer=tokenizer, dtype=dtype, device=device
            )
        else:
            self.loaded = Loaded(model=pretrained, tokenizer=tokenizer, session=None)
        self.model, self.tokenizer = self.loaded.model, self.loaded.tokenizer
        self._device = device_of(self.model)
        self.max_length = max_length or resolve_max_length(unwrapped(self.model).config, self.tokenizer)
        self.seed, self.progress = seed, progress
        self.cut = self.unfinished = 0

    @property
    def batch_size(self) -> int:
        """Sequences in one forward."""
        return self._batch_size

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without a context."""
        found = prefix_id(self.tokenizer)
        if found is None:
            raise ConfigError("the tokenizer has no token that opens or ends a text", where="tokenizer")
        return found

    @property
    def tokenizer_name(self) -> str:
        """Part of lm-eval's cache keys."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of one text; lm-eval asks for it in a few tasks."""
        return list(
            self.tokenizer.encode(
                string, **({} if add_special_tokens is None else {"add_special_tokens": add_special_tokens})
            )
        )

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a chat; the tokenizer's template without its opening of a reply where one has begun."""
        if add_generation_prompt or not self.tokenizer.chat_template:
            return prompt_text(self.tokenizer, chat_history)
        return str(self.tokenizer.apply_chat_template(chat_history, tokenize=False, continue_final_message=True))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(nats, greedy) of each (context, continuation)."""
        pairs = encode_pairs(self.tokenizer, [request.args for request in requests], self.prefix_token_id)
        scores = self._loglikelihood_tokens([(None, *pair) for pair in pairs])
        for request, score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, score)
        return scores

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, rest) for _, context, rest in requests]
        self.cut += sum(len(context) + len(rest) > self.max_length + 1 for context, rest in pairs)
        scores = score_pairs(
            self.model,
            self.tokenizer,
            pairs,
            limit=self.max_length,
            batch_size=self.batch_size,
            advance=self._advance("likelihoods", len(pairs)),
        )
        if bad := sum(not np.isfinite(total) for total, _ in scores):
            raise InfoSteerError(
                "the model's likelihoods are not finite numbers",
                got=f"NaN or infinite for {bad} of {len(scores)} requests",
                fix="the weights are likely broken (a diverged training); half precision can overflow, try float32",
            )
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Nats of each whole document, read in windows of the model's length, every token predicted once."""
        texts = [request.args[0] for request in requests]
        ids = encode_each(self.tokenizer, texts, self.tokenizer.decode(self.prefix_token_id))
        pairs, owners = [], []
        for number, text in enumerate(texts):
            windows = get_rolling_token_windows(ids[text], self.prefix_token_id, self.max_length, 1)
            for window in windows:
                pairs.append((None, *make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(texts)
        for number, (total, _) in zip(owners, self._loglikelihood_tokens(pairs), strict=True):
            totals[number] += total
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to the first stop text."""
        written = write(
            self.model,
            self.tokenizer,
            [(context, style_of(settings)) for context, settings in (request.args for request in requests)],
            limit=self.max_length,
            batch_size=self.batch_size,
            seed=self.seed,
            advance=self._advance("decoding", len(requests)),
        )
        self.cut += sum(one.cut for one in written)
        self.unfinished += sum(not one.finished for one in written)
        for request, one in zip(requests, written, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, one.text)
        return [one.text for one in written]

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes about the model beside its scores."""
        return {
            "model_num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "model_dtype": str(next(self.model.parameters()).dtype),
            "infosteer_methods": self.loaded.describe(),
        }

    def _advance(self, what: str, total: int) -> Callable[[int], None] | None:
        if self.progress is None:
            return None
        progress, done = self.progress, 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(what, done, total)

        return advance
