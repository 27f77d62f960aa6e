"""Which parameters decay."""

from __future__ import annotations

import pytest
import torch

from lmtrain.config import compose
from lmtrain.models.decoder import Decoder
from lmtrain.settings.optim import OptimConfig
from lmtrain.train.optim import build_optimizer


@pytest.fixture
def model(tiny: list[str]) -> Decoder:
    with torch.device("meta"):
        return Decoder(compose([*tiny, "model.tie_embeddings=false"]).resolved(257).model)


def test_matrices_decay_and_the_rest_does_not(model: Decoder) -> None:
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.3))
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    found = {name.rsplit(".", 1)[-1]: set() for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        found[name.rsplit(".", 1)[-1]].add((parameter.ndim > 1, decays[id(parameter)]))
    assert found["A_log"] == found["dt_bias"] == found["D"] == found["conv_bias"] == {(False, 0.0)}
    assert found["conv_weight"] == {(True, 0.3)}
    assert decays[id(model.embedding.weight)] == 0.0
    assert decays[id(model.output_weight)] == 0.3
    assert found["weight"] == {(False, 0.0), (True, 0.3), (True, 0.0)}


def test_every_parameter_is_in_one_group(model: Decoder) -> None:
    groups = build_optimizer(model, OptimConfig()).param_groups
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())
