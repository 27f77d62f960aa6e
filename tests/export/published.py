"""The ``config.json`` of published models: their keys and spelling, at the size of a test.

Written from what the models' own folders say. Shapes, tokens and lengths are small; whatever else a
folder says it says here.
"""

from __future__ import annotations

from math import inf
from typing import Any

ENDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 256, "vocab_size": 320}
LLAMA: dict[str, Any] = {
    **ENDS,
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"},
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096},
    **{"initializer_range": 0.02, "rms_norm_eps": 1e-05, "pretraining_tp": 1, "use_cache": True},
    **{"rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16"},
}
LLAMA_3 = {
    **LLAMA,
    **{"attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False},
    **{"max_position_embeddings": 512, "rope_theta": 500000.0},
    "rope_scaling": {
        **{"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0},
        **{"original_max_position_embeddings": 64, "rope_type": "llama3"},
    },
    "transformers_version": "4.43.0.dev0",
}
MISTRAL: dict[str, Any] = {
    **ENDS,
    **{"architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu"},
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 1, "max_position_embeddings": 32768},
    **{"initializer_range": 0.02, "rms_norm_eps": 1e-05, "rope_theta": 10000.0},
    **{"sliding_window": 24, "tie_word_embeddings": False, "torch_dtype": "bfloat16"},
    **{"transformers_version": "4.34.0.dev0", "use_cache": True},
}
QWEN3: dict[str, Any] = {
    **ENDS,
    **{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu"},
    **{"attention_bias": False, "attention_dropout": 0.0, "head_dim": 16, "hidden_size": 32},
    **{"initializer_range": 0.02, "intermediate_size": 48, "max_position_embeddings": 40960},
    **{"max_window_layers": 2, "num_attention_heads": 4, "num_hidden_layers": 2},
    **{"num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_scaling": None},
    **{"rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": False},
    **{"torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True},
    "use_sliding_window": False,
}
OLMO3: dict[str, Any] = {
    **{"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "hidden_act": "silu"},
    **{"attention_bias": False, "attention_dropout": 0.0, "eos_token_id": 256, "vocab_size": 320},
    **{"hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48},
    "layer_types": [*["sliding_attention"] * 3, "full_attention"],
    **{"max_position_embeddings": 512, "num_attention_heads": 4, "num_hidden_layers": 4},
    **{"num_key_value_heads": 4, "pad_token_id": 256, "rms_norm_eps": 1e-06},
    "rope_scaling": {
        **{"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0},
        **{"factor": 8.0, "original_max_position_embeddings": 64, "rope_type": "yarn"},
    },
    **{"rope_theta": 500000, "sliding_window": 24, "tie_word_embeddings": False},
    **{"torch_dtype": "bfloat16", "transformers_version": "4.57.0.dev0", "use_cache": True},
}
MAMBA2: dict[str, Any] = {
    **{"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "hidden_act": "silu"},
    **{"bos_token_id": 0, "eos_token_id": 256, "pad_token_id": 0, "vocab_size": 320},
    **{"chunk_size": 256, "conv_kernel": 4, "expand": 2, "head_dim": 16, "hidden_size": 32},
    **{"initializer_range": 0.1, "layer_norm_epsilon": 1e-05, "n_groups": 1, "num_heads": 4},
    **{"norm_before_gate": False, "num_hidden_layers": 2, "rescale_prenorm_residual": False},
    **{"residual_in_fp32": True, "rms_norm": True, "state_size": 8, "time_step_rank": 2},
    **{"tie_word_embeddings": True, "time_step_floor": 0.0001, "time_step_limit": [0.0, inf]},
    **{"time_step_max": 0.1, "time_step_min": 0.001, "torch_dtype": "float32"},
    **{"transformers_version": "4.44.0", "use_bias": False, "use_cache": True},
    "use_conv_bias": True,
}
GRANITE: dict[str, Any] = {
    **{"architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid"},
    **{"attention_bias": False, "attention_dropout": 0.0, "attention_multiplier": 0.015625},
    **{"bos_token_id": 1, "eos_token_id": 256, "pad_token_id": 1, "vocab_size": 320},
    **{"embedding_multiplier": 12, "hidden_act": "silu", "hidden_size": 32, "init_method": "mup"},
    **{"initializer_range": 0.1, "intermediate_size": 48},
    "layer_types": ["mamba", "mamba", "attention"],
    **{"logits_scaling": 3, "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_d_conv": 4},
    **{"mamba_d_head": 16, "mamba_d_state": 8, "mamba_expand": 2, "mamba_n_groups": 1},
    **{"mamba_n_heads": 4, "mamba_proj_bias": False, "max_position_embeddings": 32768},
    **{"normalization_function": "rmsnorm", "num_attention_heads": 4, "num_experts_per_tok": 0},
    **{"num_hidden_layers": 3, "num_key_value_heads": 2, "num_local_experts": 0},
    **{"output_router_logits": False, "position_embedding_type": "nope"},
    **{"residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": None},
    **{"rope_theta": 10000, "router_aux_loss_coef": 0.01, "shared_intermediate_size": 48},
    **{"tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True},
    "transformers_version": "4.56.0",
}
ONE = {
    **{"embedding_multiplier": 1, "logits_scaling": 1, "residual_multiplier": 1},
    "attention_multiplier": 8**-0.5,
}
GRANITE_OF_ATTENTION = {
    **GRANITE,
    **{"layer_types": ["attention"] * 3, "position_embedding_type": "rope"},
    **{"logits_scaling": 8.0, "rope_theta": 10000000},
}
GRANITE_3: dict[str, Any] = {
    **ENDS,
    **{"architectures": ["GraniteForCausalLM"], "model_type": "granite", "hidden_act": "silu"},
    **{"attention_bias": False, "attention_dropout": 0.1, "attention_multiplier": 0.015625},
    **{"embedding_multiplier": 12.0, "hidden_size": 32, "initializer_range": 0.02},
    **{"intermediate_size": 48, "logits_scaling": 8.0, "max_position_embeddings": 131072},
    **{"mlp_bias": False, "num_attention_heads": 4, "num_hidden_layers": 2},
    **{"num_key_value_heads": 2, "residual_multiplier": 0.22, "rms_norm_eps": 1e-05},
    **{"rope_scaling": None, "rope_theta": 5000000.0, "tie_word_embeddings": True},
    **{"torch_dtype": "bfloat16", "transformers_version": "4.47.0.dev0", "use_cache": True},
}
FALCON_H1: dict[str, Any] = {
    **{"architectures": ["FalconH1ForCausalLM"], "model_type": "falcon_h1"},
    **{"attention_bias": False, "attention_dropout": 0.0, "attention_in_multiplier": 1.0},
    **{"attention_out_multiplier": 0.9375, "attn_layer_indices": None},
    **{"bos_token_id": 1, "eos_token_id": 256, "pad_token_id": 0, "vocab_size": 320},
    **{"embedding_multiplier": 5.656854249492381, "head_dim": 12, "hidden_act": "silu"},
    **{"hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48},
    **{"key_multiplier": 0.39062499999999994, "lm_head_multiplier": 0.0390625},
    **{"mamba_chunk_size": 128, "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_d_head": 16},
    **{"mamba_d_ssm": 48, "mamba_d_state": 8, "mamba_expand": 2, "mamba_n_groups": 1},
    **{"mamba_n_heads": 3, "mamba_norm_before_gate": False, "mamba_proj_bias": False},
    **{"mamba_rms_norm": False, "mamba_use_mlp": True, "max_position_embeddings": 16384},
    **{"mlp_bias": False, "mlp_expansion_factor": 8},
    **{"mlp_multipliers": [0.8838834764831844, 0.5859375], "num_attention_heads": 4},
    **{"num_hidden_layers": 2, "num_key_value_heads": 2, "projectors_bias": False},
    **{"rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 100000000000.0},
    "ssm_in_multiplier": 1.25,
    "ssm_multipliers": [0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738],
    **{"ssm_out_multiplier": 0.23570226039551587, "tie_word_embeddings": False},
    **{"torch_dtype": "bfloat16", "transformers_version": "4.52.0.dev0", "use_cache": True},
}
NEMOTRON: dict[str, Any] = {
    **{"architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h"},
    **{"attention_bias": False, "attention_dropout": 0.0, "head_dim": 8},
    "auto_map": {
        "AutoConfig": "configuration_nemotron_h.NemotronHConfig",
        "AutoModelForCausalLM": "modeling_nemotron_h.NemotronHForCausalLM",
    },
    **{"bos_token_id": 1, "eos_token_id": 256, "pad_token_id": 0, "vocab_size": 320},
    **{"chunk_size": 128, "conv_kernel": 4, "expand": 2, "hidden_dropout": 0.0},
    **{"hidden_size": 32, "hybrid_override_pattern": "M-M*-", "initializer_range": 0.02},
    **{"intermediate_size": 48, "layer_norm_epsilon": 1e-05, "mamba_head_dim": 16},
    **{"mamba_hidden_act": "silu", "mamba_num_heads": 4, "mamba_proj_bias": False},
    **{"max_position_embeddings": 8192, "mlp_bias": False, "mlp_hidden_act": "relu2"},
    **{"n_groups": 2, "num_attention_heads": 4, "num_hidden_layers": 5},
    **{"num_key_value_heads": 2, "num_logits_to_keep": 1, "rescale_prenorm_residual": True},
    **{"residual_in_fp32": False, "rms_norm_eps": 1e-05, "sliding_window": None},
    **{"ssm_state_size": 8, "tie_word_embeddings": False, "time_step_floor": 0.0001},
    **{"time_step_limit": [0.0, inf], "time_step_max": 0.1, "time_step_min": 0.001},
    **{"torch_dtype": "bfloat16", "transformers_version": "4.51.3", "use_bias": False},
    **{"use_cache": True, "use_conv_bias": True, "use_mamba_kernels": True},
}
ROTARY = {"rope_type": "default", "mrope_interleaved": True, "rope_theta": 10000000}
QWEN3_5: dict[str, Any] = {
    **{"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text"},
    **{"attention_bias": False, "attention_dropout": 0.0, "attn_output_gate": True},
    **{"dtype": "bfloat16", "eos_token_id": 256, "full_attention_interval": 4, "head_dim": 16},
    **{"hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02},
    "intermediate_size": 48,
    "layer_types": [*["linear_attention"] * 3, "full_attention"],
    **{"linear_conv_kernel_dim": 4, "linear_key_head_dim": 8, "linear_num_key_heads": 2},
    **{"linear_num_value_heads": 4, "linear_value_head_dim": 8, "mamba_ssm_dtype": "float32"},
    **{"max_position_embeddings": 262144, "mlp_only_layers": [], "mtp_num_hidden_layers": 1},
    **{"mtp_use_dedicated_embeddings": False, "num_attention_heads": 4, "num_hidden_layers": 4},
    **{"num_key_value_heads": 2, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06},
    "rope_parameters": {**ROTARY, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25},
    **{"tie_word_embeddings": True, "use_cache": True, "vocab_size": 320},
}
WITH_IMAGES: dict[str, Any] = {
    **{"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5"},
    **{"image_token_id": 258, "video_token_id": 259, "vision_start_token_id": 260},
    **{"text_config": QWEN3_5, "tie_word_embeddings": True, "vision_end_token_id": 261},
    "transformers_version": "4.57.0.dev0",
    "vision_config": {
        **{"deepstack_visual_indexes": [], "depth": 1, "hidden_act": "gelu_pytorch_tanh"},
        **{"hidden_size": 16, "in_channels": 3, "initializer_range": 0.02, "num_heads": 2},
        **{"intermediate_size": 24, "model_type": "qwen3_5", "num_position_embeddings": 16},
        **{"out_hidden_size": 32, "patch_size": 4, "spatial_merge_size": 2},
        "temporal_patch_size": 2,
    },
}
WHOLE = {**ROTARY, "mrope_section": [4, 2, 2], "partial_rotary_factor": 1.0}
OLMO_HYBRID: dict[str, Any] = {
    **{"architectures": ["OlmoHybridForCausalLM"], "model_type": "olmo_hybrid"},
    **{"attention_bias": False, "attention_dropout": 0.0, "dtype": "float32"},
    **{"bos_token_id": None, "eos_token_id": 256, "pad_token_id": 256, "vocab_size": 320},
    **{"hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02},
    "intermediate_size": 48,
    "layer_types": [*["linear_attention"] * 3, "full_attention"],
    **{"linear_allow_neg_eigval": True, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 6},
    **{"linear_num_key_heads": 4, "linear_num_value_heads": 4, "linear_value_head_dim": 12},
    **{"max_position_embeddings": 65536, "num_attention_heads": 4, "num_hidden_layers": 4},
    **{"num_key_value_heads": 4, "rms_norm_eps": 1e-05},
    **{"rope_parameters": {"rope_theta": None, "rope_type": "default"}},
    **{"tie_word_embeddings": False, "use_cache": True},
}

READ: dict[str, dict[str, Any]] = {
    "Llama 2": LLAMA,
    "Llama 3.1": LLAMA_3,
    "Llama 3.2": {
        **LLAMA_3,
        **{"head_dim": 8, "tie_word_embeddings": True, "eos_token_id": [256, 2]},
        "rope_scaling": {**LLAMA_3["rope_scaling"], "factor": 32.0},
    },
    "SmolLM2": {
        **LLAMA_3,
        **{"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1},
        **{"bos_token_id": 256, "initializer_range": 0.041666666666666664},
        **{"is_llama_config": True, "rope_interleaved": False, "rope_scaling": None},
        **{"rope_theta": 100000, "tie_word_embeddings": True, "transformers.js_config": {}},
    },
    "Mistral 7B v0.1": MISTRAL,
    "Mistral 7B v0.3": {
        **MISTRAL,
        **{"sliding_window": None, "rope_theta": 1000000.0, "attention_dropout": 0.0},
        "head_dim": None,
    },
    "Qwen3": QWEN3,
    "OLMo 3": OLMO3,
    "Mamba-2": MAMBA2,
    "Granite 3.1": GRANITE_3,
    "Granite 4 hybrid": GRANITE,
    "Granite 4 of attention": GRANITE_OF_ATTENTION,
    "Granite 4 without multipliers": {**GRANITE, **ONE},
    "Falcon-H1": FALCON_H1,
    "Falcon-H1 with norms": {
        **FALCON_H1,
        **{"mamba_rms_norm": True, "mamba_n_groups": 2, "tie_word_embeddings": True},
        **{"mamba_d_ssm": None, "mamba_d_head": "auto", "mamba_n_heads": 4},
        **{"head_dim": 8, "attention_in_multiplier": 0.5, "ssm_multipliers": None},
    },
    "Nemotron-H": NEMOTRON,
    "Nemotron-H of another width": {**NEMOTRON, "mamba_head_dim": 12},
    "Qwen3.5": QWEN3_5,
    "Qwen3.5 over whole heads": {
        **QWEN3_5,
        **{"rope_parameters": WHOLE, "partial_rotary_factor": 1.0},
    },
    "OLMo Hybrid": OLMO_HYBRID,
}
"""What lmtrain computes."""
