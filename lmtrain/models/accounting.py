"""What a model costs: parameters, FLOPs and generation state, by formula.

What is counted as FLOPs: two for each multiplication of a projection, a convolution, a visible
query-key pair, or a recurrence in its token-by-token form (decay, correction, update, read). Work
that a chunked form adds is not counted, nor are norms, gates, activations and rotations, which are
linear in the width. Backward counts twice the forward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain

from lmtrain.models.activations import FP32, held
from lmtrain.models.config import (
    AttentionConfig,
    GatedDeltaNetConfig,
    Mamba2Config,
    MlpConfig,
    MlpKind,
    ModelConfig,
    SlidingWindowConfig,
)
from lmtrain.models.pattern import BlockSpec, parse

TRAINING = 3
"""Forward and backward over forward."""


@dataclass(frozen=True)
class Cost:
    """What a part of the model holds and does; costs add."""

    parameters: int = 0
    flops: int = 0
    """Forward, for a token, wherever it stands."""
    pair_flops: tuple[tuple[int | None, int], ...] = ()
    """Forward, for a visible pair of tokens, by window (None: the whole document)."""
    state: int = 0
    """Numbers that generation carries, however long the document."""
    cache: tuple[tuple[int | None, int], ...] = ()
    """Numbers that generation keeps for each visible token, by window."""
    saved: int = 0
    """Numbers that a training step in fp32 keeps for a token until the backward pass, by torch."""

    def __add__(self, other: Cost) -> Cost:
        """Both parts."""
        return Cost(
            parameters=self.parameters + other.parameters,
            flops=self.flops + other.flops,
            pair_flops=self.pair_flops + other.pair_flops,
            state=self.state + other.state,
            cache=self.cache + other.cache,
            saved=self.saved + other.saved,
        )

    def flops_per_token(self, lengths: Iterable[int]) -> float:
        """Forward FLOPs a token, averaged over documents of these lengths."""
        lengths = list(lengths)
        pairs = sum(n * visible_pairs(lengths, window) for window, n in self.pair_flops)
        return self.flops + pairs / sum(lengths)

    def state_bytes(self, length: int) -> int:
        """Bytes of fp32 state after ``length`` tokens of a document."""
        kept = sum(n * min(length, window or length) for window, n in self.cache)
        return FP32 * (self.state + kept)


def visible_pairs(lengths: Iterable[int], window: int | None) -> int:
    """Pairs of a token and one it sees, itself included, in documents of these lengths."""
    total = 0
    for length in lengths:
        near = length if window is None else min(window, length)
        total += near * (near + 1) // 2 + (length - near) * near
    return total


@dataclass(frozen=True)
class ModelCost:
    """The cost of a model, block by block."""

    d_model: int
    embedding: Cost
    blocks: tuple[tuple[BlockSpec, Cost], ...]
    head: Cost
    total: Cost = field(init=False)

    def __post_init__(self) -> None:
        """Add up."""
        parts = chain([self.embedding], (cost for _, cost in self.blocks), [self.head])
        object.__setattr__(self, "total", sum(parts, Cost()))

    @classmethod
    def of(cls, config: ModelConfig) -> ModelCost:
        """The cost of the model that ``config`` describes; its vocabulary must be known."""
        assert config.vocab_size is not None
        d, table = config.d_model, config.vocab_size * config.d_model
        specs = parse(config.pattern, config.n_layers)
        own_head = 0 if config.tie_embeddings else table
        return cls(
            d_model=d,
            embedding=Cost(parameters=table),
            blocks=tuple((spec, _block(spec, config)) for spec in specs),
            head=_norm(d) + Cost(parameters=own_head, flops=2 * table, saved=3 * d),
        )

    def training_flops_per_token(self, lengths: Iterable[int]) -> float:
        """FLOPs of forward and backward a token, averaged over documents of these lengths."""
        return TRAINING * self.total.flops_per_token(lengths)


def _block(spec: BlockSpec, config: ModelConfig) -> Cost:
    """Mixers behind one norm (side by side, one behind each), then the MLP behind its own."""
    d = config.d_model
    cost = Cost()
    for letter in spec.mixers:
        cost += _mixer(letter, config)
    if spec.mixers:
        cost += _norm(d)
    if len(spec.mixers) > 1 and config.branch_norm:
        cost += sum((_norm(d) for _ in spec.mixers), Cost())
    if spec.mlp:
        cost += _norm(d) + _mlp(config.mlp, d)
    return replace(cost, saved=held(spec, config).kept // FP32)


def _norm(width: int) -> Cost:
    return Cost(parameters=width)


def _mixer(letter: str, config: ModelConfig) -> Cost:
    match letter:
        case "A":
            return _attention(config.attention, config.d_model)
        case "W":
            return _attention(config.sliding_window, config.d_model)
        case "M":
            return _mamba2(config.mamba2, config.d_model)
        case "G":
            return _gated_deltanet(config.gated_deltanet, config.d_model)
        case _:
            raise AssertionError(letter)


def _attention(config: AttentionConfig, d: int) -> Cost:
    width = config.width(d)
    inner, shared = config.heads * width, config.kv_heads * width
    gate = inner if config.output_gate else 0
    window = config.window if isinstance(config, SlidingWindowConfig) else None
    projected = inner + 2 * shared + gate
    matrices = d * projected + inner * d
    scales = inner + shared if config.qk_norm_joint else 2 * width
    return Cost(
        parameters=matrices + (scales if config.qk_norm else 0),
        flops=2 * matrices,
        pair_flops=((window, 4 * inner),),
        cache=((window, 2 * shared),),
    )


def _mamba2(config: Mamba2Config, d: int) -> Cost:
    heads, inner = config.heads(d), config.width(d)
    shared = config.groups * config.state_dim
    channels, state = inner + 2 * shared, inner * config.state_dim
    projected = inner + channels + heads
    matrices = d * projected + inner * d
    taps = config.conv_width * channels
    vectors = 3 * heads + (channels if config.conv_bias else 0) + (inner if config.norm else 0)
    return Cost(
        parameters=matrices + taps + vectors,
        flops=2 * (matrices + taps + 3 * state),  # decay, update, read
        state=state + (config.conv_width - 1) * channels,
    )


def _gated_deltanet(config: GatedDeltaNetConfig, d: int) -> Cost:
    keys, values = config.key_heads * config.key_dim, config.value_heads * config.value_dim
    channels, state = 2 * keys + values, values * config.key_dim
    projected = channels + values + 2 * config.value_heads
    matrices = d * projected + values * d
    taps = config.conv_width * channels
    return Cost(
        parameters=matrices + taps + 2 * config.value_heads + config.value_dim,
        flops=2 * (matrices + taps + 4 * state),  # decay, correction, update, read
        state=state + (config.conv_width - 1) * channels,
    )


def _mlp(config: MlpConfig, d: int) -> Cost:
    hidden = config.width(d)
    into = 2 * hidden if config.kind is MlpKind.swiglu else hidden
    matrices = d * into + hidden * d
    return Cost(parameters=matrices, flops=2 * matrices)
