"""Scaled rotary positions: as transformers computes them, and refused where they make no sense."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from lmtrain.layout import SequenceLayout
from lmtrain.models.config import AttentionConfig, ModelConfig, SlidingWindowConfig
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.models.mixers.attention import Attention
from lmtrain.models.rope import RopeKind, RopeScaling
from lmtrain.ops.rotary import Frequencies, angles, frequencies, interpolated, llama3, rotate, yarn

WIDTH = 32
YARN: dict[str, Any] = {"factor": 4.0, "original_length": 256, "beta_fast": 32.0, "beta_slow": 1.0}
LLAMA3: dict[str, Any] = {
    "factor": 8.0,
    "original_length": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 8.0},
    "yarn": {**YARN},
    "yarn of a published model": {**YARN, "factor": 8.0, "original_length": 8192},
    "yarn of a short original": {**YARN, "original_length": 16},
    "yarn with all its keys": {
        **YARN,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "attention_factor": 1.7,
    },
    "llama3": {**LLAMA3},
    "llama3 of a short original": {**LLAMA3, "factor": 32.0, "original_length": 100},
    "llama3 with other borders": {**LLAMA3, "low_freq_factor": 2.5, "high_freq_factor": 64.0},
}


def theirs_of(name: str, theta: float) -> Any:
    """The table of transformers for a kind."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    said = dict(KINDS[name])
    if "original_length" in said:
        said["original_max_position_embeddings"] = said.pop("original_length")
    config = transformers.LlamaConfig(
        head_dim=WIDTH,
        max_position_embeddings=131_072,
        rope_parameters={"rope_type": name.partition(" ")[0], "rope_theta": theta, **said},
    )
    return LlamaRotaryEmbedding(config)


def ours(name: str, theta: float, *, width: int = WIDTH) -> Frequencies:
    said = dict(KINDS[name])
    if name == "default":
        return frequencies(width, theta)
    if name == "linear":
        return interpolated(width, theta, **said)
    if name.startswith("llama3"):
        return llama3(width, theta, **said)
    return yarn(width, theta, **{"attention_factor": None, **said})


@pytest.mark.parametrize("theta", [1e4, 5e5])
@pytest.mark.parametrize("name", KINDS)
def test_tables_are_those_of_transformers(name: str, theta: float) -> None:
    theirs, found = theirs_of(name, theta), ours(name, theta)
    assert found.scale == pytest.approx(theirs.attention_scaling, rel=1e-7)
    expected = theirs.inv_freq.double()
    assert (torch.tensor(found.values, dtype=torch.float64) / expected - 1).abs().max() < 1e-6
    cos, sin = theirs(torch.zeros(()), torch.arange(2048)[None])
    exact = Frequencies(tuple(expected.tolist()), theirs.attention_scaling)
    layout = SequenceLayout.of_lengths([2048])
    for mine, table in zip(angles(layout, of=found), (cos, sin), strict=True):
        # They multiply positions in fp32, which is off by up to 2048 * 2^-24 = 1.2e-4.
        assert (mine[:4, 0] - table[0, :4, : WIDTH // 2]).abs().max() < 1e-6
        assert (mine[:, 0] - table[0, :, : WIDTH // 2]).abs().max() < 4e-4
    for mine, table in zip(angles(layout, of=found), angles(layout, of=exact), strict=True):
        assert (mine - table)[:16].abs().max() < 1e-6


@pytest.mark.parametrize("theta", [1e4, 5e5])
@pytest.mark.parametrize("name", KINDS)
def test_frequencies_are_those_of_transformers_in_fp64(
    name: str, theta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their own code, where what it calls ``torch.float`` is fp64."""
    theirs_of(name, theta)  # nothing is imported under the patch
    with monkeypatch.context() as patch:
        for word in ("float", "float32"):
            patch.setattr(torch, word, torch.float64)
        theirs = theirs_of(name, theta)
    found = ours(name, theta)
    assert theirs.inv_freq.dtype is torch.float64
    values = torch.tensor(found.values, dtype=torch.float64)
    assert (values / theirs.inv_freq - 1).abs().max() < 1e-12
    assert found.scale == pytest.approx(theirs.attention_scaling, rel=1e-12)


def test_interpolation_reads_positions_between_those_of_the_training() -> None:
    short, long = SequenceLayout.of_lengths([64]), SequenceLayout.of_lengths([256])
    trained = angles(short, of=ours("default", 1e4))
    stretched = angles(long, of=interpolated(WIDTH, 1e4, factor=4.0))
    for a, b in zip(trained, stretched, strict=True):
        torch.testing.assert_close(a, b[::4], rtol=0, atol=1e-7)


def test_yarn_keeps_fast_pairs_divides_slow_ones_and_sharpens() -> None:
    found, plain = ours("yarn of a published model", 1e4), ours("default", 1e4)
    ratios = [b / a for a, b in zip(plain.values, found.values, strict=True)]
    assert ratios[0] == 1.0
    assert ratios[-1] == pytest.approx(1 / 8)
    assert ratios == sorted(ratios, reverse=True)
    x = torch.randn(3, 2, WIDTH, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, *angles(SequenceLayout.of_lengths([3]), of=found))
    torch.testing.assert_close(turned.norm(dim=-1), found.scale * x.norm(dim=-1))


def test_llama3_keeps_fast_pairs_divides_slow_ones_and_goes_over_between() -> None:
    """The published model: pairs of 8,192 / 4 tokens a turn stay, those of 8,192 are divided."""
    found, plain = (f.values for f in (llama3(128, 5e5, **LLAMA3), frequencies(128, 5e5)))
    ratios = [b / a for a, b in zip(plain, found, strict=True)]
    lengths = [2 * math.pi / value for value in plain]
    fast = [r for r, length in zip(ratios, lengths, strict=True) if length <= 2048]
    slow = [r for r, length in zip(ratios, lengths, strict=True) if length >= 8192]
    assert set(fast) == {1.0}
    assert slow == pytest.approx([1 / 8] * len(slow), rel=1e-12)
    assert len(fast) + len(slow) == 64 - 6
    assert ratios == sorted(ratios, reverse=True)


def test_each_section_has_positions_of_its_own() -> None:
    scaling = RopeScaling(kind=RopeKind.yarn, factor=4.0, original_length=64)
    plain, scaled = AttentionConfig(), AttentionConfig(rope_scaling=scaling)
    model = ModelConfig(d_model=32, attention=scaled)
    layout = SequenceLayout.of_lengths([300])
    one, two = (
        Attention(config, model.d_model, model.norm).angles(layout)[0] for config in (plain, scaled)
    )
    assert not torch.equal(one, two)
    assert model.sliding_window.rope_scaling.kind is RopeKind.none


def test_a_text_is_written_as_it_is_read() -> None:
    """Token by token, far beyond the original length, full attention and windows."""
    scaling = RopeScaling(kind=RopeKind.yarn, factor=4.0, original_length=16)
    section = {"heads": 2, "kv_heads": 1, "rope_scaling": scaling}
    config = ModelConfig(
        d_model=16,
        n_layers=2,
        pattern="AW",
        vocab_size=32,
        attention=AttentionConfig(**section),
        sliding_window=SlidingWindowConfig(**section, window=24),
    )
    model = Decoder(config)
    initialize(model.double(), seed=0)
    tokens = torch.randint(32, (64,), generator=torch.Generator().manual_seed(0))
    whole = model(tokens, SequenceLayout.of_lengths([64]))
    state, parts = model.initial_states(), []
    for piece in tokens.split([30, 1, 1, 32]):
        hidden, state = model.extend(piece, state)
        parts.append(model.logits(hidden))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("scaling", "said"),
    [
        (
            RopeScaling(factor=2.0),
            "factor=2.0 does nothing with kind=none: say kind=linear or yarn or llama3",
        ),
        (
            RopeScaling(low_freq_factor=2.0),
            "low_freq_factor=2.0 does nothing with kind=none: say kind=llama3",
        ),
        (
            RopeScaling(kind=RopeKind.yarn, factor=2.0, original_length=64, high_freq_factor=2.0),
            "high_freq_factor=2.0 does nothing with kind=yarn: leave it out",
        ),
        (RopeScaling(kind=RopeKind.llama3, factor=0.5, original_length=64), "factor=0.5 would"),
        (RopeScaling(kind=RopeKind.llama3, factor=2.0), "original_length=null: llama3 needs"),
        (
            RopeScaling(kind=RopeKind.llama3, factor=2.0, original_length=0),
            "original_length=0: llama3 needs the length of the training before",
        ),
        (
            RopeScaling(kind=RopeKind.llama3, factor=2.0, original_length=64, low_freq_factor=4.0),
            "low_freq_factor=4.0 with high_freq_factor=4.0: choose a number above 0, below high",
        ),
        (
            RopeScaling(kind=RopeKind.llama3, factor=2.0, original_length=64, low_freq_factor=0.0),
            "low_freq_factor=0.0 with high_freq_factor=4.0",
        ),
        (
            RopeScaling(kind=RopeKind.linear, factor=2.0, original_length=64),
            "original_length=64 does nothing with kind=linear: leave it out",
        ),
        (RopeScaling(kind=RopeKind.linear, factor=0.5), "factor=0.5 would shorten"),
        (RopeScaling(kind=RopeKind.yarn, factor=2.0), "original_length=null: yarn needs"),
        (
            RopeScaling(kind=RopeKind.yarn, factor=2.0, original_length=64, beta_slow=40.0),
            "beta_slow=40.0 with beta_fast=32.0",
        ),
        (
            RopeScaling(kind=RopeKind.yarn, factor=2.0, original_length=64, attention_factor=-1.0),
            "attention_factor=-1.0 must be above 0",
        ),
    ],
)
def test_what_makes_no_sense_is_a_sentence(scaling: RopeScaling, said: str) -> None:
    model = ModelConfig(attention=AttentionConfig(rope_scaling=scaling))
    [problem] = model.check()
    assert f"model.attention.rope_scaling.{said}" in problem


def test_no_positions_cannot_be_scaled() -> None:
    scaling = RopeScaling(kind=RopeKind.linear, factor=2.0)
    config = AttentionConfig(rope=False, rope_scaling=scaling)
    model = ModelConfig()
    problems = replace(model, attention=config).check()
    assert len(problems) == 1
    assert "rope=false has none: say none" in problems[0]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (AttentionConfig(partial_rotary_factor=0.0), "0.0 must be above 0 and at most 1"),
        (AttentionConfig(partial_rotary_factor=1.5), "1.5 must be above 0 and at most 1"),
        (AttentionConfig(partial_rotary_factor=math.nan), "nan must be above 0"),
        (AttentionConfig(rope=False, partial_rotary_factor=0.5), "0.5 of no rotation: leave it"),
        (AttentionConfig(head_dim=12, partial_rotary_factor=0.25), "0.25 of 12 dimensions is 3"),
        (AttentionConfig(head_dim=8, partial_rotary_factor=0.1), "0.1 of 8 dimensions is 0"),
    ],
)
def test_a_part_of_a_head_has_pairs(config: AttentionConfig, said: str) -> None:
    [problem] = ModelConfig(attention=config).check()
    assert f"model.attention.partial_rotary_factor={said}" in problem


@pytest.mark.parametrize("theta", [1.0, 0.5, -1e4, math.inf, math.nan])
def test_a_base_that_turns_nothing_ever_slower_is_refused(theta: float) -> None:
    problems = dict(AttentionConfig(rope_theta=theta).problems(64))
    assert problems == {"rope_theta": f"{theta} must be above 1 and finite"}
