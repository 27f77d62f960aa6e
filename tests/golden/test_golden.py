"""Twenty losses of small runs, as they were when somebody last looked: `make golden` rewrites them.

The runs are fp64, so that they agree on every machine; a change that is not about numerics leaves
the files alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from lmtrain.layout import SequenceLayout
from lmtrain.models.config import (
    GatedDeltaNetConfig,
    Mamba2Config,
    ModelConfig,
    SlidingWindowConfig,
)
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize

STEPS, VOCABULARY = 20, 61
LAYOUT = SequenceLayout.of_lengths([1, 63, 64, 90, 38])
WORDS = {
    "attention": "A",
    "window": "W",
    "mamba2": "M",
    "gated_deltanet": "G",
    "mixed": "GWMA",
    "parallel": "[AM]-g",
}


def losses(pattern: str) -> list[float]:
    """Nats a token of a model that learns one row by heart."""
    config = ModelConfig(
        d_model=32,
        n_layers=4,
        pattern=pattern,
        vocab_size=VOCABULARY,
        sliding_window=SlidingWindowConfig(window=20),
        mamba2=Mamba2Config(head_dim=16, state_dim=8),
        gated_deltanet=GatedDeltaNetConfig(key_heads=2, value_heads=4, key_dim=8, value_dim=8),
    )
    model = Decoder(config)
    initialize(model, seed=1)
    model.double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokens = (torch.arange(len(LAYOUT) + 1) ** 2 // 7) % VOCABULARY
    found: list[float] = []
    for _ in range(STEPS):
        total = model(tokens[:-1], LAYOUT, tokens[1:], z_loss=1e-4).total / len(LAYOUT)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        found.append(total.item())
    return found


@pytest.mark.parametrize("name", WORDS)
def test_losses_are_those_of_before(name: str) -> None:
    file = Path(__file__).parent / f"{name}.json"
    found = losses(WORDS[name])
    assert found[-1] < found[0] - 0.5
    if os.environ.get("LMTRAIN_GOLDEN") == "write":
        file.write_text(json.dumps({"torch": torch.__version__, "losses": found}, indent=1) + "\n")
    assert found == pytest.approx(json.loads(file.read_text())["losses"], rel=1e-8)
