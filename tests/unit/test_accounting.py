"""Formulas of cost against counts of the real thing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lmtrain.layout import SequenceLayout
from lmtrain.models.accounting import Cost, ModelCost, visible_pairs
from lmtrain.models.config import (
    AttentionConfig,
    GatedDeltaNetConfig,
    Mamba2Config,
    MlpConfig,
    MlpKind,
    ModelConfig,
    NormConfig,
    SlidingWindowConfig,
)
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.ops import reference

LENGTHS = (5, 1, 17, 9)
LAYOUT = SequenceLayout.of_lengths(LENGTHS)
TOKENS = sum(LENGTHS)

ODD = ModelConfig(
    d_model=24,
    n_layers=9,
    pattern="AWMGm-[AM][gw]a",
    vocab_size=37,
    tie_embeddings=False,
    attention=AttentionConfig(heads=6, kv_heads=2, head_dim=10, output_gate=True),
    sliding_window=SlidingWindowConfig(heads=4, kv_heads=4, window=7, qk_norm=False),
    mamba2=Mamba2Config(expand=3, head_dim=8, state_dim=5, groups=3, conv_width=3, conv_bias=False),
    gated_deltanet=GatedDeltaNetConfig(key_heads=2, value_heads=6, key_dim=7, value_dim=5),
    mlp=MlpConfig(kind=MlpKind.relu2, hidden=31),
    norm=NormConfig(zero_centered=True),
)
WIDE = ModelConfig(d_model=128, n_layers=2, vocab_size=64)
GROUPED = replace(
    WIDE,
    attention=AttentionConfig(heads=8, kv_heads=2, output_gate=True),
    sliding_window=SlidingWindowConfig(heads=8, kv_heads=2, window=96, qk_norm=False),
    mamba2=Mamba2Config(head_dim=32, state_dim=48, groups=2),
    gated_deltanet=GatedDeltaNetConfig(key_heads=2, value_heads=4, key_dim=32, value_dim=48),
    mlp=MlpConfig(kind=MlpKind.relu2),
)
BARE = replace(
    ODD,
    branch_norm=False,
    mamba2=Mamba2Config(inner=40, head_dim=8, state_dim=5, norm=False),
)
WITHOUT_NORMS = replace(
    GROUPED, branch_norm=False, mamba2=replace(GROUPED.mamba2, inner=192, norm=False)
)
PLAIN = ModelConfig(d_model=32, n_layers=4, pattern="GWMA", vocab_size=41)


def decoder(config: ModelConfig) -> Decoder:
    model = Decoder(config)
    initialize(model, seed=0)
    return model


@pytest.mark.parametrize("config", [ODD, BARE, PLAIN], ids=["odd", "bare", "plain"])
def test_parameters_equal_the_modules(config: ModelConfig) -> None:
    with torch.device("meta"):
        model = Decoder(config)
    cost = ModelCost.of(config)
    for (_, block), module in zip(cost.blocks, model.blocks, strict=True):
        assert block.parameters == sum(p.numel() for p in module.parameters())
    assert cost.total.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", MlpKind)
def test_flops_of_mlp_and_head_equal_a_count(kind: MlpKind) -> None:
    config = replace(ODD, pattern="-", n_layers=3, mlp=MlpConfig(kind=kind, hidden=31))
    model = decoder(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(TOKENS, dtype=torch.int64), LAYOUT)
    expected = ModelCost.of(config).total.flops_per_token(LENGTHS) * TOKENS
    assert counter.get_total_flops() == expected


class Multiplications(TorchDispatchMode):
    """Counts multiplications by elements of a state ``[h, k, v]`` or of scores ``[h, t, s]``."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        match func.overloadpacket:
            case torch.ops.aten.mul if out.numel() == self.numel:
                self.count += out.numel()
            case torch.ops.aten.bmm:
                self.count += out.numel() * args[0].shape[-1]
        return out


def recurrent_flops(config: ModelConfig, letter: str) -> int:
    """FLOPs of the mixer beyond its projections and its convolution."""
    config = replace(config, pattern=letter.lower(), n_layers=1)
    mixer = decoder(config).blocks[0].mixers[0]  # type: ignore[index]
    matrices = mixer.in_proj.weight.numel() + mixer.out_proj.weight.numel()  # type: ignore[union-attr]
    [(_, cost)] = ModelCost.of(config).blocks
    return cost.flops - 2 * (matrices + mixer.conv_weight.numel())  # type: ignore[union-attr,operator]


def test_flops_of_mamba2_are_those_of_its_recurrence() -> None:
    c, heads = ODD.mamba2, 9
    q, k = (torch.randn(TOKENS, c.groups, c.state_dim) for _ in range(2))
    v, decay = torch.randn(TOKENS, heads, c.head_dim), -torch.rand(TOKENS, heads)
    with Multiplications(heads * c.state_dim * c.head_dim) as counter:
        reference.ssd(q, k, v, decay, layout=LAYOUT)
    assert 2 * counter.count == recurrent_flops(ODD, "M") * TOKENS


def test_flops_of_gated_deltanet_are_those_of_its_recurrence() -> None:
    c = ODD.gated_deltanet
    q, k = (torch.randn(TOKENS, c.key_heads, c.key_dim) for _ in range(2))
    v = torch.randn(TOKENS, c.value_heads, c.value_dim)
    decay, beta = -torch.rand(TOKENS, c.value_heads), torch.rand(TOKENS, c.value_heads)
    with Multiplications(c.value_heads * c.key_dim * c.value_dim) as counter:
        reference.gated_delta(q, k, v, decay, beta, layout=LAYOUT)
    assert 2 * counter.count == recurrent_flops(ODD, "G") * TOKENS


@pytest.mark.parametrize(("letter", "window"), [("A", None), ("W", 7)])
def test_flops_of_attention_are_its_visible_share_of_the_reference(
    letter: str, window: int | None
) -> None:
    c = ODD.attention if letter == "A" else ODD.sliding_window
    q = torch.randn(TOKENS, c.heads, c.width(ODD.d_model))
    k = torch.randn(TOKENS, c.kv_heads, c.width(ODD.d_model))
    with FlopCounterMode(display=False) as counter:
        reference.attend(q, k, k, layout=LAYOUT, window=window)
    [(_, cost)] = ModelCost.of(replace(ODD, pattern=letter.lower(), n_layers=1)).blocks
    [(reach, per_pair)] = cost.pair_flops
    assert (reach, per_pair * TOKENS**2) == (window, counter.get_total_flops())


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.none() | st.integers(1, 15))
def test_visible_pairs_equal_a_count_of_the_mask(lengths: list[int], window: int | None) -> None:
    layout = SequenceLayout.of_lengths(lengths)
    i, j = torch.arange(len(layout))[:, None], torch.arange(len(layout))
    mask = (j <= i) & (layout.document[:, None] == layout.document)
    if window is not None:
        mask &= i - j < window
    assert visible_pairs(lengths, window) == mask.sum().item()


def test_training_counts_three_forwards_and_costs_add() -> None:
    cost = ModelCost.of(PLAIN)
    assert cost.training_flops_per_token([64]) == 3 * cost.total.flops_per_token([64])
    parts = [cost.embedding, *(block for _, block in cost.blocks), cost.head]
    assert sum(part.flops_per_token([9, 3]) for part in parts) == pytest.approx(
        cost.total.flops_per_token([9, 3])
    )


def numbers(state: Any) -> int:
    """Numbers in the tensors of a nested state."""
    if isinstance(state, Tensor):
        return state.numel()
    return sum(map(numbers, state)) if isinstance(state, (tuple, list)) else 0


@pytest.mark.parametrize("word", ["M", "G", "A", "[am]"])
def test_state_bytes_equal_the_states_of_generation(word: str) -> None:
    config = replace(ODD, pattern=word, n_layers=2)
    model, length = decoder(config), 11
    _, state = model.extend(torch.zeros(length, dtype=torch.int64), model.initial_states())
    assert 4 * numbers(state.mixers) == ModelCost.of(config).total.state_bytes(length)


def test_the_state_of_a_window_stops_growing() -> None:
    cost = ModelCost.of(replace(ODD, pattern="w", n_layers=1)).total
    assert cost.state_bytes(3) < cost.state_bytes(7) == cost.state_bytes(100)
    assert cost.state_bytes(7) == 4 * 7 * 2 * ODD.sliding_window.kv_heads * 6


@pytest.mark.parametrize("word", ["A", "W", "M", "G", "-", "[AM]"])
@pytest.mark.parametrize(
    "config", [WIDE, GROUPED, WITHOUT_NORMS], ids=["wide", "grouped", "without norms"]
)
def test_the_estimate_of_saved_numbers_is_near_the_count(word: str, config: ModelConfig) -> None:
    config = replace(config, pattern=word)
    model, layout = decoder(config), SequenceLayout.of_lengths([2048])
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            saved[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(len(layout), dtype=torch.int64), layout)
    count = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert 4 * ModelCost.of(config).total.saved * len(layout) == pytest.approx(count, rel=0.05)


def test_costs_add_field_by_field() -> None:
    a = Cost(parameters=1, flops=2, pair_flops=((None, 3),), state=4, cache=((5, 6),), saved=7)
    b = a + a
    assert (b.parameters, b.flops, b.state, b.saved) == (2, 4, 8, 14)
    assert b.flops_per_token([2]) == 4 + 2 * 3 * 3 / 2
    assert b.state_bytes(9) == 4 * (8 + 2 * 5 * 6)
