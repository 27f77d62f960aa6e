"""Muon is torch's on whole matrices, and only projections get it."""

from __future__ import annotations

import pytest
import torch

from lmtrain.config import compose
from lmtrain.models.decoder import Decoder
from lmtrain.settings.optim import MuonScale, OptimConfig, OptimKind
from lmtrain.train.muon import MuonAdamW
from lmtrain.train.optim import build_optimizer, projections

SHAPES = [(12, 5), (5, 12), (8, 8), (1, 7), (64, 3)]


@pytest.fixture
def model(tiny: list[str]) -> Decoder:
    with torch.device("meta"):
        return Decoder(compose([*tiny, "model.tie_embeddings=false"]).resolved(257).model)


@pytest.mark.parametrize("scale", MuonScale)
def test_matrices_move_as_with_torch_bitwise(scale: MuonScale) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in SHAPES]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    vectors = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    here = MuonAdamW(
        {"params": ours, "lr": 0.02, "weight_decay": 0.1},
        torch.optim.AdamW(vectors[:1], lr=0.02),
        momentum=0.9,
        scale=scale,
    )
    there = torch.optim.Muon(
        theirs, lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn=scale.value
    )
    adamw = torch.optim.AdamW(vectors[1:], lr=0.02)
    for _ in range(4):
        for one, other in zip([*ours, vectors[0]], [*theirs, vectors[1]], strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in (here, there, adamw):
            optimizer.step()
    for one, other in zip([*ours, vectors[0]], [*theirs, vectors[1]], strict=True):
        assert torch.equal(one, other)


def test_projections_alone_are_made_orthogonal(model: Decoder) -> None:
    optimizer = build_optimizer(model, OptimConfig(kind=OptimKind.muon))
    first = {id(p) for p in optimizer.param_groups[0]["params"]}
    muon = {name for name, p in model.named_parameters() if id(p) in first}
    assert muon == projections(model)
    assert not [name for name in muon if "conv" in name or "norm" in name]
    rest = {name for name, p in model.named_parameters() if p.ndim > 1} - muon
    assert {name.rsplit(".", 1)[-1] for name in rest} == {"weight", "conv_weight"}
    assert {"embedding.weight", "head.weight"} < rest
    ids = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
