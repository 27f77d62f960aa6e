"""Maximal update parametrisation: steps move a wide model as they move the one lr was tuned on."""

from __future__ import annotations

import re
from math import log
from statistics import linear_regression
from typing import TYPE_CHECKING, TypeAlias

import pytest
import torch
from runs import Run

from lmtrain.config import compose
from lmtrain.layout import SequenceLayout
from lmtrain.models.config import (
    AttentionConfig,
    GatedDeltaNetConfig,
    Mamba2Config,
    MlpConfig,
    ModelConfig,
    SlidingWindowConfig,
)
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import draw, initialize
from lmtrain.settings.engine import Device, EngineConfig, Precision
from lmtrain.settings.optim import MuonScale, OptimConfig, OptimKind
from lmtrain.train.birth import birth
from lmtrain.train.engines import LocalEngine
from lmtrain.train.optim import build_optimizer, set_learning_rate

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

BASE = 32
HEAD = 16
VOCABULARY = 64
TOKENS = 256
WATCHED = re.compile(r"embedding|blocks\.\d(\.mlp|\.mixers\.0(\.in_proj)?)?")


def wide(d_model: int) -> ModelConfig:
    """Every mixer with its MLP; widths and heads in proportion to ``d_model``."""
    heads = d_model // HEAD
    shared = heads // 2
    return ModelConfig(
        d_model=d_model,
        n_layers=4,
        pattern="AWMG",
        vocab_size=VOCABULARY,
        tie_embeddings=False,
        attention=AttentionConfig(heads=heads, kv_heads=shared, head_dim=HEAD),
        sliding_window=SlidingWindowConfig(heads=heads, kv_heads=shared, head_dim=HEAD, window=16),
        mamba2=Mamba2Config(head_dim=HEAD, state_dim=16),
        gated_deltanet=GatedDeltaNetConfig(
            key_heads=shared, value_heads=heads, key_dim=HEAD, value_dim=HEAD
        ),
        mlp=MlpConfig(hidden=3 * d_model),
    )


def born(d_model: int, optim: OptimConfig) -> tuple[Decoder, torch.optim.Optimizer]:
    model = Decoder(wide(d_model))
    initialize(model, seed=0, base_width=optim.base_width)
    return model, build_optimizer(model, optim)


def text() -> Tensor:
    """Tokens after each of which one of four may come."""
    generator = torch.Generator().manual_seed(0)
    following = torch.randint(VOCABULARY, (VOCABULARY, 4), generator=generator).tolist()
    tokens = [0]
    for choice in torch.randint(4, (TOKENS,), generator=generator).tolist():
        tokens.append(following[tokens[-1]][choice])
    return torch.tensor(tokens)


def outputs(model: Decoder, tokens: Tensor, layout: SequenceLayout) -> dict[str, Tensor]:
    """What embedding, blocks, mixers, their projections, MLPs and output head give."""
    seen: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
        for name, module in model.named_modules()
        if WATCHED.fullmatch(name)
    ]
    with torch.no_grad():
        seen["logits"] = model(tokens, layout)
    for hook in hooks:
        hook.remove()
    return seen


def train_step(
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    tokens: Tensor,
    layout: SequenceLayout,
    lr: float = 5e-3,
) -> None:
    (model(tokens[:-1], layout, tokens[1:]).total / TOKENS).backward()
    set_learning_rate(optimizer, lr)
    optimizer.step()
    optimizer.zero_grad()


def changes(d_model: int, optim: OptimConfig, *, steps: int) -> dict[str, float]:
    """The root mean square of what ``steps`` change in every output."""
    model, optimizer = born(d_model, optim)
    tokens, layout = text(), SequenceLayout((0, TOKENS // 2, TOKENS), 0, TOKENS)
    before = outputs(model, tokens[:-1], layout)
    for _ in range(steps):
        train_step(model, optimizer, tokens, layout, lr=optim.lr)
    after = outputs(model, tokens[:-1], layout)
    return {name: (after[name] - x).square().mean().sqrt().item() for name, x in before.items()}


def slopes(optim: OptimConfig, widths: list[int], *, steps: int) -> dict[str, float]:
    """The power of the width by which each change grows: least squares in logarithms."""
    found = [changes(d_model, optim, steps=steps) for d_model in widths]
    x = [log(d_model) for d_model in widths]
    return {name: linear_regression(x, [log(of[name]) for of in found]).slope for name in found[0]}


Choice: TypeAlias = tuple[OptimKind, MuonScale]
ADAMW: Choice = OptimKind.adamw, MuonScale.original
MUON: list[Choice] = [(OptimKind.muon, scale) for scale in MuonScale]


def settings(base_width: int | None, optimizer: Choice) -> OptimConfig:
    kind, scale = optimizer
    return OptimConfig(
        base_width=base_width,
        kind=kind,
        muon_scale=scale,
        muon_precision=Precision.fp32,
        lr=5e-3,
    )


def module_of(name: str) -> str:
    """The last part of the name of the module that has a parameter."""
    return name.rpartition(".")[0].rpartition(".")[2]


def check_even(found: dict[str, float], least: float = -0.5, most: float = 0.1) -> None:
    """No output changes more in a wider model; in the narrowest, small ones change the most."""
    assert {name: slope for name, slope in found.items() if not least < slope < most} == {}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [ADAMW, *MUON], ids=["adamw", *MuonScale])
def test_steps_change_outputs_alike_at_every_width(optimizer: Choice) -> None:
    widths = [32, 64, 128, 256] if optimizer is ADAMW else [32, 64, 128]
    check_even(slopes(settings(BASE, optimizer), widths, steps=5))


def test_without_a_base_width_changes_grow_with_the_width() -> None:
    found = slopes(settings(None, ADAMW), [32, 64, 128], steps=5)
    assert {name for name, slope in found.items() if slope < 0.5} == {"embedding"}


@pytest.mark.long
@pytest.mark.parametrize("optimizer", [ADAMW, *MUON], ids=["adamw", *MuonScale])
def test_the_same_after_more_steps_of_wider_models(optimizer: Choice) -> None:
    """Changes add up in outputs of a block behind Mamba-2: by Muon to a power of 0.2 at most."""
    most = 0.1 if optimizer is ADAMW else 0.25
    check_even(slopes(settings(BASE, optimizer), [64, 128, 256, 512], steps=20), -0.7, most)


def test_only_projections_and_the_head_start_smaller() -> None:
    model = Decoder(wide(4 * BASE))
    factors = {"head": 0.25, "in_proj": 0.5, "out_proj": 0.5}
    for name, parameter in model.named_parameters():
        plain = draw(model, name, parameter.shape, seed=0)
        scaled = draw(model, name, parameter.shape, seed=0, base_width=BASE)
        assert torch.equal(scaled, plain * factors.get(module_of(name), 1.0)), name


def test_what_decays_shrinks_at_one_pace_at_every_width() -> None:
    for optim in (settings(BASE, ADAMW), settings(BASE, MUON[0]), settings(None, ADAMW)):
        model, optimizer = born(4 * BASE, optim)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        set_learning_rate(optimizer, 0.5)
        optimizer.step()
        for name, parameter in model.named_parameters():
            decays = parameter.ndim > 1 and name != "embedding.weight"
            shrunk = before[name] * (1 - 0.5 * optim.weight_decay if decays else 1)
            torch.testing.assert_close(parameter.detach(), shrunk, msg=name)


def test_rates_follow_the_width() -> None:
    names = {"embedding": 1.0, "norm": 1.0, "in_proj": 0.25, "head": 0.25}
    for optim, projections in ((ADAMW, 0.25), (MUON[0], 0.5), (MUON[1], 1.0)):
        model, optimizer = born(4 * BASE, settings(BASE, optim))
        set_learning_rate(optimizer, 0.1)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert len(rates) == len(list(model.parameters()))
        for name, parameter in model.named_parameters():
            module = module_of(name)
            expected = projections if module in {"in_proj", "out_proj"} else names.get(module, 1.0)
            assert rates[id(parameter)] == pytest.approx(0.1 * expected), name


@pytest.mark.parametrize("optimizer", [ADAMW, MUON[0]], ids=["adamw", "muon"])
def test_at_the_base_width_steps_are_bitwise_the_same(optimizer: Choice) -> None:
    tokens, layout = text(), SequenceLayout((0, TOKENS), 0, TOKENS)
    models: list[Decoder] = []
    for base_width in (None, BASE):
        model, stepper = born(BASE, settings(base_width, optimizer))
        for _ in range(2):
            train_step(model, stepper, tokens, layout)
        models.append(model)
    for (name, one), other in zip(
        models[0].named_parameters(), models[1].parameters(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_run_is_born_with_its_base_width(tiny: list[str]) -> None:
    shared = [*tiny, "model.tie_embeddings=false"]
    plain, wider = (
        birth(compose([*shared, *more]).resolved(257), LocalEngine(EngineConfig(device=Device.cpu)))
        for more in ([], ["optim.base_width=16"])
    )
    assert torch.equal(wider[0].output_weight, plain[0].output_weight / 2)
    assert {group["lr_factor"] for group in wider[1].param_groups} == {0.5, 1.0}


@pytest.mark.slow
def test_at_the_base_width_a_run_is_bitwise_the_same(tiny: list[str], tmp_path: Path) -> None:
    shared = [*tiny, "model.tie_embeddings=false", "samples.count=0"]
    plain, based = Run(tmp_path / "plain", shared), Run(tmp_path / "based", shared)
    assert plain.train() == based.train("optim.base_width=32") == 0
    assert plain.losses == based.losses
    assert plain.same_state(based)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optim.base_width=0"], r"optim\.base_width=0 must be at least 1"),
        (["optim.base_width=16"], r"optim\.base_width=16 needs .* model\.tie_embeddings=false"),
        (
            ["model.tie_embeddings=false", "model.d_model=64", "optim.base_width=16"],
            r"model\.attention\.heads makes 2 heads, .* make it a multiple of 4, or say "
            r"optim\.base_width=null",
        ),
        (
            ["model.tie_embeddings=false", "optim.base_width=16", "model.mamba2.head_dim=64"],
            r"model\.mamba2\.head_dim makes 1 heads",
        ),
    ],
)
def test_what_cannot_be_a_wider_base_is_refused(
    tiny: list[str], overrides: list[str], expected: str
) -> None:
    problems = compose([*tiny, *overrides]).check(world_size=1)
    assert any(re.search(expected, problem) for problem in problems), problems


def test_mixers_that_a_pattern_leaves_out_are_not_asked(tiny: list[str]) -> None:
    overrides = ["model.tie_embeddings=false", "optim.base_width=16", "model.mamba2.head_dim=64"]
    assert compose([*tiny, *overrides, "model.pattern=AG"]).check(world_size=1) == []
