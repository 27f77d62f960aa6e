"""The models that the step benchmarks compare. Only this file knows transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lmtrain.bench.config import BenchConfig, BenchDevice, BenchKind, Floor
from lmtrain.bench.floor import Products
from lmtrain.bench.sizes import of_size, size_problems
from lmtrain.compilation import compile_blocks
from lmtrain.layout import SequenceLayout
from lmtrain.models.accounting import ModelCost
from lmtrain.models.config import AttentionConfig, GatedDeltaNetConfig, MlpConfig, ModelConfig
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.ops.backend import bind, capability
from lmtrain.ops.config import Backend, backend_problems
from lmtrain.parallelize import rematerialize
from lmtrain.settings.engine import Remat

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

WIDTH, LAYERS, VOCABULARY, HIDDEN = 256, 8, 4096, 704
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 64
KEY_HEADS, VALUE_HEADS, TAPS = 2, 4, 4
THETA = 100_000.0
LARGE_VOCABULARY = 32_768
"""Of the models whose size is chosen."""
RIVALS = (Backend.triton, Backend.flash_qla, Backend.fla, Backend.torch)


class Contender(NamedTuple):
    """A model, and its mean loss of ``tokens [documents, length + 1]``."""

    model: nn.Module
    loss: Callable[[Tensor], Tensor]
    cost: ModelCost | None = None
    """Of ours."""

    @property
    def parameters(self) -> int:
        """Numbers that are trained."""
        return sum(p.numel() for p in self.model.parameters())


def builders(bench: BenchConfig) -> dict[str, Callable[[], Contender]]:
    """What builds each contender, by its name; ours is the first."""
    if bench.what is BenchKind.backends:
        return {
            backend.value: partial(_lmtrain, compared_model(bench), bench, backend)
            for backend in backends(bench)
        }
    if bench.compile:
        build = partial(_lmtrain, compared_model(bench), bench, bench.ops.backend)
        return {"compiled": partial(build, compiled=True), "as it is": build}
    on_gpu = bench.device is BenchDevice.cuda
    ours = partial(_lmtrain, compared_model(bench), bench, bench.ops.backend)
    if not bench.peers:
        return {f"lmtrain {bench.pattern}": ours}
    return {
        f"lmtrain {bench.pattern}": ours,
        "transformers Llama": lambda: _peer(_llama(), bf16=on_gpu),
        "transformers Qwen3-Next": lambda: _peer(_qwen3_next(), bf16=on_gpu),
        **{floor.value: partial(_floor, bench, floor) for floor in Floor},
    }


def backends(bench: BenchConfig) -> list[Backend]:
    """Those to compare: named ones, or all that can run here."""
    card = capability(torch.device(bench.device))
    return bench.backends or [b for b in RIVALS if not backend_problems(b, card)]


def problems(bench: BenchConfig) -> list[str]:
    """What is wrong with our model or its backends, a sentence each."""
    if not bench.sized:
        return compared_model(bench).check()
    if unknown := size_problems(bench):
        return unknown
    card = capability(torch.device(bench.device))
    named = [problem for b in bench.backends for problem in backend_problems(b, card)]
    return [*compared_model(bench).check(), *named]


def compared_model(bench: BenchConfig) -> ModelConfig:
    """Our model."""
    if not bench.sized:
        return model_config(bench.pattern)
    return replace(of_size(bench), pattern=bench.pattern, vocab_size=LARGE_VOCABULARY)


def model_config(pattern: str) -> ModelConfig:
    """Our model: the sizes of Qwen3-Next's mixers, and its gates."""
    return ModelConfig(
        d_model=WIDTH,
        n_layers=LAYERS,
        pattern=pattern,
        vocab_size=VOCABULARY,
        attention=AttentionConfig(
            heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, rope_theta=THETA, output_gate=True
        ),
        gated_deltanet=GatedDeltaNetConfig(
            key_heads=KEY_HEADS,
            value_heads=VALUE_HEADS,
            key_dim=HEAD_DIM,
            value_dim=HEAD_DIM,
            conv_width=TAPS,
        ),
        mlp=MlpConfig(hidden=HIDDEN),
    )


def _lmtrain(
    config: ModelConfig, bench: BenchConfig, backend: Backend, *, compiled: bool = False
) -> Contender:
    model = Decoder(config)
    dtype = torch.bfloat16 if bench.device is BenchDevice.cuda else torch.float32
    bind(model, replace(bench.ops, backend=backend), torch.device(bench.device), dtype)
    initialize(model, seed=0)
    rematerialize(model, Remat.full if bench.remat else Remat.none)
    if compiled:
        compile_blocks(model)
    if bench.device is BenchDevice.cuda:
        model.compute_dtype = dtype

    def loss(tokens: Tensor) -> Tensor:
        documents, length = tokens.shape[0], tokens.shape[1] - 1
        layout = SequenceLayout.of_lengths([length] * documents).to(tokens.device)
        inputs, targets = tokens[:, :-1].flatten(), tokens[:, 1:].flatten()
        return model(inputs, layout, targets).total / targets.numel()

    return Contender(model, loss, ModelCost.of(config))


def _floor(bench: BenchConfig, floor: Floor) -> Contender:
    model = Decoder(compared_model(bench))
    dtype = torch.bfloat16 if bench.device is BenchDevice.cuda else torch.float32
    bind(model, bench.ops, torch.device(bench.device), dtype)
    attention = floor is Floor.attention
    products = Products(model, max(bench.lengths), dtype, attention=attention)

    def loss(tokens: Tensor) -> Tensor:
        return products([tokens.shape[1] - 1] * tokens.shape[0])

    return Contender(products, loss)


def _llama() -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_shared(), intermediate_size=_llama_hidden()))


def _qwen3_next() -> PreTrainedModel:
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    return Qwen3NextForCausalLM(
        Qwen3NextConfig(
            **_shared(),
            intermediate_size=HIDDEN,
            num_experts=0,
            linear_num_key_heads=KEY_HEADS,
            linear_num_value_heads=VALUE_HEADS,
            linear_key_head_dim=HEAD_DIM,
            linear_value_head_dim=HEAD_DIM,
            linear_conv_kernel_dim=TAPS,
        )
    )


def _shared() -> dict[str, Any]:
    """What every model of transformers is told, in its words."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "tie_word_embeddings": True,
        "use_cache": False,
        "attn_implementation": "sdpa",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": THETA,
            "partial_rotary_factor": 1.0,
        },
    }


def _llama_hidden() -> int:
    """The MLP width, a multiple of 8, that brings Llama nearest to the size of a ``GGGA`` stack."""
    with torch.device("meta"):
        ours = sum(p.numel() for p in Decoder(model_config("GGGA")).parameters())
    heads = HEAD_DIM * (2 * HEADS + 2 * KV_HEADS)
    rest = WIDTH * VOCABULARY + LAYERS * WIDTH * (heads + 2) + WIDTH
    return round((ours - rest) / (LAYERS * 3 * WIDTH) / 8) * 8


def _peer(model: PreTrainedModel, *, bf16: bool) -> Contender:
    def loss(tokens: Tensor) -> Tensor:
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16):
            return model(input_ids=inputs, labels=targets, shift_labels=targets).loss

    return Contender(model, loss)
