"""What blocks keep for the backward pass with kernels: the formulas against what autograd saves."""

from __future__ import annotations

import pytest
import torch
from cards import DEVICE
from torch import Tensor

from lmtrain.layout import SequenceLayout
from lmtrain.models.activations import held
from lmtrain.models.config import MlpConfig, ModelConfig
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.ops.backend import bind
from lmtrain.ops.config import Backend, OpsConfig

TOKENS = 203
"""No width of a model: what has it for a dimension is of tokens, and no weight in 16 bits."""


@pytest.mark.skipif(DEVICE.type == "cuda", reason="attention keeps other things on a card")
@pytest.mark.parametrize("kind", ["swiglu", "relu2"])
@pytest.mark.parametrize("letter", "GMA")
def test_blocks_keep_what_the_formulas_say(
    letter: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    mlp = MlpConfig(kind=kind)  # type: ignore[arg-type]
    config = ModelConfig(d_model=64, n_layers=1, pattern=letter, vocab_size=16, mlp=mlp)
    model = Decoder(config)
    initialize(model, seed=0)
    bind(model, OpsConfig(backend=Backend.triton), DEVICE, torch.bfloat16)
    saved: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        if TOKENS in x.shape:
            saved[x.untyped_storage().data_ptr()] = x
        return x

    x = torch.randn(TOKENS, 64, dtype=torch.bfloat16, device=DEVICE).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda y: y):
        out = model.blocks[0](x, SequenceLayout.of_lengths([TOKENS]))
    assert out.shape == x.shape
    found = sum(y.untyped_storage().nbytes() for y in saved.values()) / TOKENS
    if letter == "A":
        found -= 4 * config.attention.width(64)  # angles, which all blocks share
    formula = held(model.blocks[0].spec, config, element=2, fused=True).kept  # type: ignore[arg-type]
    assert found == pytest.approx(formula, rel=0.02)
