"""Where the feed-forward network of each dense text decoder lives.

One row per ``model_type`` of a *text decoder* (the type of ``config.get_text_config()``); wrappers such as Llava need
no row of their own. A row is a claim about somebody else's source code, so a row exists only together with a test that
builds it from a tiny config and recomputes the coefficient by hand (``tests/models``).

Legend: D hidden, M memories (FFN width).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class FFNLayout:
    """Where one family keeps its FFN: ``k = act(W_gate h) * (W_up h)``, or ``act(W_in h)`` without a gate.

    Args:
        model_type: ``config.model_type`` of the text decoder.
        down: path of the down projection (M -> D) inside a decoder layer; its input is k.
        keys: path of W_up, or of W_in in a plain FFN, inside a decoder layer.
        gates: path of W_gate (the half that passes through the activation), ``None`` in a plain FFN. Equal to ``keys``
            where both halves are one fused projection with 2M output features.
        gate_first: in a fused projection, whether rows [0, M) are the gate.
        layers: path of the list of decoder layers, inside the text decoder.
        norm: path of the final norm, inside the text decoder.
    """

    model_type: str
    down: str = "mlp.down_proj"
    keys: str = "mlp.up_proj"
    gates: str | None = "mlp.gate_proj"
    gate_first: bool = True
    layers: str = "layers"
    norm: str = "norm"

    @property
    def gated(self) -> bool:
        return self.gates is not None

    @property
    def fused(self) -> bool:
        return self.gates == self.keys

    def source(self) -> str:
        """The row as Python source, leaving out what equals the defaults."""
        default = FFNLayout(model_type=self.model_type)
        parts = [f"model_type={self.model_type!r}"]
        for name in ("down", "keys", "gates", "gate_first", "layers", "norm"):
            if getattr(self, name) != getattr(default, name):
                parts.append(f"{name}={getattr(self, name)!r}")
        return f"FFNLayout({', '.join(parts)})"


# The Llama shape: gate_proj, up_proj and down_proj under `mlp`, layers under `layers`, final norm `norm`.
_LLAMA_SHAPED = (
    "beam",
    "cohere",
    "cohere2",
    "cwm",
    "diffllama",
    "doge",
    "ernie4_5",
    "exaone4",
    "flint",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma3n_text",
    "gemma4_text",
    "granite",
    "granite_swa",
    "helium",
    "hunyuan_v1_dense",
    "hyperclovax",
    "internlm3",
    "iquestcoder",
    "llama",
    "minicpm3",
    "ministral",
    "ministral3",
    "mistral",
    "olmo",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "qwen2",
    "qwen2_5_vl_text",
    "qwen2_vl_text",
    "qwen3",
    "qwen3_5_text",
    "qwen3_vl_text",
    "seed_oss",
    "smollm3",
    "stablelm",
    "vaultgemma",
    "youtu",
)

_OTHERS = (
    # gated, other names
    FFNLayout(model_type="bamba", keys="feed_forward.up_proj", gates="feed_forward.gate_proj",
              down="feed_forward.down_proj", norm="final_layernorm"),
    FFNLayout(model_type="falcon_h1", keys="feed_forward.up_proj", gates="feed_forward.gate_proj",
              down="feed_forward.down_proj", norm="final_layernorm"),
    FFNLayout(model_type="lfm2", keys="feed_forward.w3", gates="feed_forward.w1", down="feed_forward.w2",
              norm="embedding_norm"),
    FFNLayout(model_type="lfm3", keys="feed_forward.w3", gates="feed_forward.w1", down="feed_forward.w2",
              norm="embedding_norm"),
    FFNLayout(model_type="recurrent_gemma", keys="mlp_block.up_proj", gates="mlp_block.gate_proj",
              down="mlp_block.down_proj", norm="final_norm"),
    # gated, one fused projection
    FFNLayout(model_type="glm", keys="mlp.gate_up_proj", gates="mlp.gate_up_proj"),
    FFNLayout(model_type="glm4", keys="mlp.gate_up_proj", gates="mlp.gate_up_proj"),
    FFNLayout(model_type="granitemoehybrid", keys="shared_mlp.input_linear", gates="shared_mlp.input_linear",
              down="shared_mlp.output_linear"),
    FFNLayout(model_type="phi3", keys="mlp.gate_up_proj", gates="mlp.gate_up_proj"),
    FFNLayout(model_type="phi4_multimodal", keys="mlp.gate_up_proj", gates="mlp.gate_up_proj"),
    # plain
    FFNLayout(model_type="apertus", gates=None),
    FFNLayout(model_type="arcee", gates=None),
    FFNLayout(model_type="jais2", gates=None),
    FFNLayout(model_type="nemotron", gates=None),
    FFNLayout(model_type="nanochat", keys="mlp.fc1", gates=None, down="mlp.fc2"),
    FFNLayout(model_type="phi", keys="mlp.fc1", gates=None, down="mlp.fc2", norm="final_layernorm"),
    FFNLayout(model_type="biogpt", keys="fc1", gates=None, down="fc2", norm="layer_norm"),
    FFNLayout(model_type="xglm", keys="fc1", gates=None, down="fc2", norm="layer_norm"),
    FFNLayout(model_type="opt", keys="fc1", gates=None, down="fc2", norm="final_layer_norm"),
    FFNLayout(model_type="starcoder2", keys="mlp.c_fc", gates=None, down="mlp.c_proj"),
    FFNLayout(model_type="gpt2", keys="mlp.c_fc", gates=None, down="mlp.c_proj", layers="h", norm="ln_f"),
    FFNLayout(model_type="gpt_neo", keys="mlp.c_fc", gates=None, down="mlp.c_proj", layers="h", norm="ln_f"),
    FFNLayout(model_type="gpt_bigcode", keys="mlp.c_fc", gates=None, down="mlp.c_proj", layers="h", norm="ln_f"),
    FFNLayout(model_type="gptj", keys="mlp.fc_in", gates=None, down="mlp.fc_out", layers="h", norm="ln_f"),
    FFNLayout(model_type="codegen", keys="mlp.fc_in", gates=None, down="mlp.fc_out", layers="h", norm="ln_f"),
    FFNLayout(model_type="bloom", keys="mlp.dense_h_to_4h", gates=None, down="mlp.dense_4h_to_h", layers="h",
              norm="ln_f"),
    FFNLayout(model_type="falcon", keys="mlp.dense_h_to_4h", gates=None, down="mlp.dense_4h_to_h", layers="h",
              norm="ln_f"),
    FFNLayout(model_type="gpt_neox", keys="mlp.dense_h_to_4h", gates=None, down="mlp.dense_4h_to_h",
              norm="final_layer_norm"),
    FFNLayout(model_type="gpt_neox_japanese", keys="mlp.dense_h_to_4h", gates=None, down="mlp.dense_4h_to_h",
              norm="final_layer_norm"),
    FFNLayout(model_type="persimmon", keys="mlp.dense_h_to_4h", gates=None, down="mlp.dense_4h_to_h",
              norm="final_layernorm"),
    FFNLayout(model_type="mpt", keys="ffn.up_proj", gates=None, down="ffn.down_proj", layers="blocks", norm="norm_f"),
)  # fmt: skip

LAYOUTS: Mapping[str, FFNLayout] = MappingProxyType(
    {row.model_type: row for row in (*(FFNLayout(model_type=name) for name in _LLAMA_SHAPED), *_OTHERS)}
)
