"""The vLLM engine: fast decoding of large plain models. Nothing here is imported before it is asked for.

Written against vLLM 0.33's ``LLM.generate`` with prompts as token ids. It decodes only: likelihoods of options are the
transformers engine's. It holds no hooks, so steered models are refused before it is made.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError
from infosteer.evaluation.decode import Decoded, end_ids
from infosteer.evaluation.engines.contract import Counted
from infosteer.evaluation.loglik import OptionScores
from infosteer.evaluation.model_state import encode, longest_input, prompt_text
from infosteer.evaluation.predictions import Array
from infosteer.training.loading import load_tokenizer, resolve_model


class VllmEngine:
    """A plain model in vLLM.

    Args:
        model: a folder with config.json, or a hub id.
        dtype: number type of weights and activations.
        batch_size: most sequences that vLLM runs at a time.

    Raises:
        ConfigError: vLLM is not installed, or cannot load the model; a folder of adapters alone.
    """

    name = "vllm"
    likelihoods = False

    def __init__(self, model: str, *, dtype: str, batch_size: int) -> None:
        vllm = _vllm()
        source = resolve_model(model)
        if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
            raise ConfigError(
                "vLLM gets whole models here, and this folder holds adapters.",
                where=f"model: {model}",
                fix="merge them into the base and save that, or use --engine transformers",
            )
        from transformers import AutoConfig, GenerationConfig

        local = Path(source).is_dir()
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=local)
        try:
            own = GenerationConfig.from_pretrained(source, local_files_only=local)
        except OSError:  # the model has none
            own = GenerationConfig.from_model_config(config)
        self.tokenizer = load_tokenizer(model)
        self.context_length = longest_input(config)
        self._ends = end_ids(own, self.tokenizer)
        self._dtype, self._version, self._params = dtype, vllm.__version__, vllm.SamplingParams
        try:
            self._llm = vllm.LLM(
                model=source,
                tokenizer=source,
                dtype=dtype,
                trust_remote_code=False,
                generation_config="vllm",  # greedy means greedy, whatever the model's own config asks for
                max_num_seqs=batch_size,
                seed=0,
            )
        except Exception as error:  # vLLM, CUDA and the hub raise many kinds
            raise ConfigError(
                "vLLM cannot load the model.",
                where=f"model: {model}",
                got=f"{type(error).__name__}: {str(error).strip()[:300]}",
                fix="use --engine transformers",
            ) from error

    def describe(self) -> dict[str, Any]:
        """Number type and version."""
        return {"engine": self.name, "dtype": self._dtype, "device": "vllm", "vllm": self._version}

    def decode(
        self,
        prompts: Sequence[Any],
        *,
        max_new_tokens: int,
        stops: Sequence[Sequence[str]],
        batch_size: int,
        progress: Counted | None = None,
    ) -> list[Decoded]:
        """Greedy continuations, with the same prompts as token ids, ends and limits as the transformers engine."""
        ids = [self._ids(prompt) for prompt in prompts]
        limit = self.context_length
        room = [max_new_tokens if limit is None else min(max_new_tokens, limit - len(row)) for row in ids]
        chosen = [i for i in range(len(ids)) if room[i] > 0 and ids[i]]
        results = [Decoded(text="", tokens=0, finished=False, too_long=True)] * len(ids)
        params = [
            self._params(
                temperature=0.0,
                max_tokens=room[i],
                stop=list(stops[i]) or None,
                stop_token_ids=self._ends,
                logprobs=0,  # of the chosen tokens alone
            )
            for i in chosen
        ]
        outputs = self._llm.generate([{"prompt_token_ids": ids[i]} for i in chosen], params, use_tqdm=False)
        for i, output in zip(chosen, outputs, strict=True):
            results[i] = self._decoded(output.outputs[0], stops[i])
        if progress is not None:
            progress(len(ids))
        return results

    def _ids(self, prompt: Any) -> list[int]:
        return encode(self.tokenizer, [prompt_text(self.tokenizer, prompt)], special=isinstance(prompt, str))[0]

    def _decoded(self, found: Any, stops: Sequence[str]) -> Decoded:
        tokens = list(found.token_ids)
        ended = bool(tokens) and tokens[-1] in self._ends
        cuts = [at for stop in stops if (at := found.text.find(stop)) >= 0]
        total = found.cumulative_logprob
        return Decoded(
            text=found.text[: min(cuts)] if cuts else found.text,
            tokens=len(tokens) - ended,
            finished=found.finish_reason == "stop",
            too_long=False,
            confidence=math.nan if total is None else math.exp(total),
        )

    def score_options(
        self,
        prompts: Sequence[Any],
        options: Sequence[Sequence[str]],
        *,
        leads: Sequence[str],
        batch_size: int,
        progress: Counted | None = None,
    ) -> list[OptionScores]:
        """Raises: ConfigError, always."""
        raise _decodes_only()

    def score_texts(
        self, texts: Sequence[str], *, batch_size: int, progress: Counted | None = None
    ) -> tuple[Array, Array, Array]:
        """Raises: ConfigError, always."""
        raise _decodes_only()


def _decodes_only() -> ConfigError:
    return ConfigError("the vLLM engine decodes only", got="likelihoods", fix="use --engine transformers")


def _vllm() -> Any:
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise ConfigError(
            "vLLM is not installed.",
            where="--engine vllm",
            got=error,
            fix="pip install 'infosteer[vllm]' on a machine with a GPU, or use --engine transformers",
        ) from None
