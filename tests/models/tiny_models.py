"""A tiny random model of every row of the table, and of the wrappers around them. Not a test module."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

HIDDEN, WIDTH, LAYERS, VOCAB = 32, 48, 2, 64

BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2}
HEADS = {"num_key_value_heads": 2, "head_dim": 8}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_d_ssm": 64}
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4,
}  # fmt: skip
DELTA = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
}  # fmt: skip
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}

# What each row needs beyond BASE; a value of None drops the key. Exactly one entry a row: a test compares the two.
TEXT: dict[str, dict[str, Any]] = {
    "apertus": GROUPED,
    "arcee": HEADS,
    "bamba": GROUPED | MAMBA | {"mamba_expand": 2, "attn_layer_indices": [1]},
    "beam": HEADS,
    "biogpt": {},
    "bloom": {"intermediate_size": None},
    "codegen": {"intermediate_size": None, "rotary_dim": 4},
    "cohere": GROUPED,
    "cohere2": HEADS,
    "cwm": HEADS,
    "diffllama": HEADS,
    "doge": GROUPED,
    "ernie4_5": HEADS,
    "exaone4": HEADS,
    "falcon": {"intermediate_size": None},
    "falcon_h1": HEADS | MAMBA | {"mlp_multipliers": [0.5, 2.0]},
    "flint": HEADS,
    "gemma": HEADS,
    "gemma2": HEADS,
    "gemma3_text": HEADS,
    "gemma3n_text": HEADS
    | {
        "num_hidden_layers": 4,
        "intermediate_size": [48, 64, 48, 64],
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
    },
    "gemma4_text": HEADS
    | {"global_head_dim": 8, "vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8},
    "glm": HEADS,
    "glm4": HEADS,
    "gpt2": {"intermediate_size": None, "n_inner": WIDTH},
    "gpt_bigcode": {"intermediate_size": None, "n_inner": WIDTH},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": LAYERS, "num_hidden_layers": None,
                "num_heads": 4, "num_attention_heads": None},
    "gpt_neox": {},
    "gpt_neox_japanese": {"intermediate_size": None},
    "gptj": {"intermediate_size": None, "n_inner": WIDTH, "rotary_dim": 4},
    "granite": GROUPED,
    "granite_swa": GROUPED,
    "granitemoehybrid": GROUPED
    | MAMBA
    | {
        "num_local_experts": 0,
        "shared_intermediate_size": WIDTH,
        "mamba_expand": 2,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "helium": HEADS,
    "hunyuan_v1_dense": HEADS,
    "hyperclovax": HEADS,
    "internlm3": HEADS,
    "iquestcoder": HEADS,
    "jais2": HEADS,
    "lfm2": GROUPED | {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"]},
    "lfm3": GROUPED | {"layer_types": ["conv", "full_attention"]},
    "llama": HEADS,
    "minicpm3": LATENT,
    "ministral": HEADS,
    "ministral3": HEADS,
    "mistral": HEADS,
    "mpt": {"intermediate_size": None, "max_seq_len": 64, "max_position_embeddings": None},
    "nanochat": GROUPED,
    "nemotron": HEADS,
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "olmo3": GROUPED,
    "olmo_hybrid": GROUPED | DELTA,
    "opt": {"intermediate_size": None, "ffn_dim": WIDTH, "word_embed_proj_dim": HIDDEN},
    "persimmon": {},
    "phi": GROUPED,
    "phi3": GROUPED,
    "phi4_multimodal": GROUPED
    | {
        "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                          "image_size": 28, "patch_size": 14, "crop_size": 28},
        "audio_config": {"hidden_size": 16, "intermediate_size": 24, "num_blocks": 1, "num_attention_heads": 2,
                         "ext_pw_out_channel": 16, "nemo_conv_channels": 16},
    },
    "qwen2": GROUPED,
    "qwen2_5_vl_text": GROUPED | MROPE,
    "qwen2_vl_text": GROUPED | MROPE,
    "qwen3": HEADS,
    "qwen3_5_text": HEADS | DELTA | MROPE | {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_vl_text": HEADS | MROPE,
    "recurrent_gemma": GROUPED
    | {"intermediate_size": 2 * WIDTH, "lru_width": HIDDEN, "block_types": ["recurrent", "attention"]},
    "seed_oss": HEADS,
    "smollm3": GROUPED,
    "stablelm": GROUPED,
    "starcoder2": GROUPED,
    "vaultgemma": HEADS,
    "xglm": {"intermediate_size": None, "d_model": HIDDEN, "ffn_dim": WIDTH, "num_layers": LAYERS,
             "attention_heads": 4},
    "youtu": LATENT,
}  # fmt: skip

SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
          "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
CLIP = SIGLIP | {"model_type": "clip_vision_model", "projection_dim": 16}
PIXTRAL = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
           "num_attention_heads": 2, "head_dim": 8, "image_size": 28, "patch_size": 14}  # fmt: skip
QWEN_VISION = {"depth": 2, "embed_dim": 16, "hidden_size": HIDDEN, "num_heads": 2, "patch_size": 14, "mlp_ratio": 2}
QWEN25_VISION = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": HIDDEN,
                 "fullatt_block_indexes": [1]}  # fmt: skip
QWEN3_VISION = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": HIDDEN,
                "deepstack_visual_indexes": [0], "num_position_embeddings": 16}  # fmt: skip

IDEFICS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
           "image_size": 28, "patch_size": 14}  # fmt: skip
INTERN = IDEFICS | {"model_type": "internvl_vision", "image_size": [28, 28], "patch_size": [14, 14]}
NAFLEX = IDEFICS | {"model_type": "siglip2_vision_model", "num_patches": 4}
GEMMA4_VISION = {"model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                 "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 8}  # fmt: skip
SAM = {"hidden_size": 16, "mlp_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
       "patch_size": 16, "output_channels": 8, "global_attn_indexes": [1]}  # fmt: skip

# wrapper type -> (type of its text decoder, its vision config, other arguments)
WRAPPERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "aya_vision": ("cohere2", SIGLIP, {"image_token_index": 63}),
    "gemma4": ("gemma4_text", GEMMA4_VISION,
               {"audio_config": None, "image_token_id": 60, "video_token_id": 61, "audio_token_id": 62}),
    "got_ocr2": ("qwen2", SAM, {"image_token_index": 63}),
    "idefics3": ("llama", IDEFICS, {"image_token_id": 60, "scale_factor": 2}),
    "internvl": ("qwen2", INTERN, {"image_token_id": 60}),
    "lfm2_vl": ("lfm2", NAFLEX, {"image_token_id": 60}),
    "llava_next": ("mistral", CLIP, {"image_token_index": 63}),
    "llava_onevision": ("qwen2", SIGLIP, {"image_token_index": 60, "video_token_index": 61}),
    "smolvlm": ("llama", IDEFICS, {"image_token_id": 60, "scale_factor": 2}),
    "gemma3": ("gemma3_text", SIGLIP, {"mm_tokens_per_image": 4, "image_token_index": 63}),
    "llava": ("llama", CLIP, {"image_token_index": 63}),
    "mistral3": ("mistral", PIXTRAL, {"image_token_index": 63}),
    "paligemma": ("gemma", SIGLIP, {"image_token_index": 63, "projection_dim": HIDDEN}),
    "qwen2_vl": ("qwen2_vl_text", QWEN_VISION, {"image_token_id": 60, "video_token_id": 61}),
    "qwen2_5_vl": ("qwen2_5_vl_text", QWEN25_VISION, {"image_token_id": 60, "video_token_id": 61}),
    "qwen3_vl": ("qwen3_vl_text", QWEN3_VISION, {"image_token_id": 60, "video_token_id": 61}),
    "qwen3_5": ("qwen3_5_text", {k: v for k, v in QWEN3_VISION.items() if k != "deepstack_visual_indexes"},
                {"image_token_id": 60, "video_token_id": 61}),
}  # fmt: skip


def text_arguments(model_type: str) -> dict[str, Any]:
    return {key: value for key, value in (BASE | TEXT[model_type]).items() if value is not None}


def tiny(model_type: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A tiny random causal LM of a row, in eval mode, on weights large enough for exact comparisons to mean much."""
    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng():  # some configs print themselves
        torch.manual_seed(seed)
        config = AutoConfig.for_model(model_type, **(text_arguments(model_type) | changes))
        model = _class_of(model_type)(config) if model_type.endswith("vl_text") else None
        return _random(model or AutoModelForCausalLM.from_config(config), seed)


def tiny_wrapper(model_type: str, seed: int = 0) -> PreTrainedModel:
    text_type, vision, others = WRAPPERS[model_type]
    text = text_arguments(text_type) | {"model_type": text_type}
    config = AutoConfig.for_model(model_type, text_config=text, vision_config=vision, **others)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _random(AutoModelForImageTextToText.from_config(config), seed)


def _class_of(model_type: str) -> type[PreTrainedModel]:
    """These text decoders have no causal-LM class of their own; the base model stands in."""
    names = {"qwen2_vl_text": "Qwen2VLTextModel", "qwen2_5_vl_text": "Qwen2_5_VLTextModel",
             "qwen3_vl_text": "Qwen3VLTextModel"}  # fmt: skip
    module = getattr(transformers.models, model_type.removesuffix("_text"))
    return getattr(module, names[model_type])


def _random(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    # Own values for every parameter: some families start their down projection or their biases at zero.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            elif not parameter.is_floating_point():
                continue
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def tokens(rows: int = 2, length: int = 5) -> torch.Tensor:
    """Ids between 5 and 55: no special or image token among them. Shape (B, T)."""
    return torch.arange(rows * length).reshape(rows, length) * 7 % 50 + 5
