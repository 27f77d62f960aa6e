"""What a training step keeps of every token, and works in, by formula: part by part of a block.

Each formula follows the code of its part, tensor by tensor: what autograd saves, and what is alive
at once in the busiest moment of the backward pass. `lmtrain bench what=memory` holds them against
the allocator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lmtrain.models.config import (
    AttentionConfig,
    GatedDeltaNetConfig,
    Mamba2Config,
    MlpConfig,
    MlpKind,
    ModelConfig,
    SlidingWindowConfig,
)
from lmtrain.ops.chunks import CHUNK

if TYPE_CHECKING:
    from lmtrain.models.pattern import BlockSpec

FP32 = 4
"""Bytes of a number."""
WINDOW_COPIES = 3
"""Blocks of keys that a block of queries meets in a window."""


class Numbers(NamedTuple):
    """Numbers of a token, by what they are stored in."""

    element: int = 0
    """In the dtype of the activations."""
    exact: int = 0
    """In fp32, whatever the activations are in."""
    cast: int = 0
    """Copies in fp32 of activations in 16 bits; activations in fp32 need none."""

    def bytes(self, element: int) -> int:
        """With so many bytes of an activation."""
        return element * self.element + FP32 * (self.exact + self.cast * (element < FP32))


class Activations(NamedTuple):
    """What a part of the model holds for a token of a training step."""

    kept: Numbers
    """From the forward to the backward pass, when nothing is computed twice."""
    products: Numbers
    """Of which results of matrix products, of attention and of recurrences."""
    work: Numbers
    """In the busiest moment of its backward pass, beyond what it has not let go yet."""


class Held(NamedTuple):
    """Bytes of a token that a block holds."""

    kept: int
    """From the forward to the backward pass, its input included."""
    products: int
    """What of that remains when all but results of products is computed twice."""
    work: int
    """At most, in its backward pass, beyond all that it keeps."""


def held(spec: BlockSpec, config: ModelConfig, *, element: int = FP32, fused: bool = False) -> Held:
    """Of one block.

    Args:
        spec: its mixers, and whether it has an MLP.
        config: their shapes.
        element: bytes of an activation.
        fused: recurrences, convolutions, norms and SwiGLU by kernels of a GPU, not by torch.
    """
    kept, products, live, busiest = 0, config.d_model * element, 0, 0
    for part in parts(spec, config, fused=fused):
        kept += part.kept.bytes(element)
        products += part.products.bytes(element)
    for part in parts(spec, config, fused=fused):
        live += part.kept.bytes(element)  # those behind it have let go
        busiest = max(busiest, live + part.work.bytes(element))
    return Held(kept, products, busiest - kept)


def parts(spec: BlockSpec, config: ModelConfig, *, fused: bool = False) -> list[Activations]:
    """The parts of a block in their order, each behind its norm."""
    d = config.d_model
    between = norm(d, fused=fused)
    found = [between] if spec.mixers else []
    found += [mixer(letter, config, fused=fused) for letter in spec.mixers]
    if len(spec.mixers) > 1 and config.branch_norm:
        found += [between] * len(spec.mixers)
    return [*found, between, mlp(config.mlp, d, fused=fused)] if spec.mlp else found


def norm(width: int, *, fused: bool = False) -> Activations:
    """Its input and its output; torch's in fp32, its output before the scale and after."""
    kept = Numbers(2 * width, 1) if fused else Numbers(width, 2 * width)
    return Activations(kept, Numbers(), Numbers())


def mlp(config: MlpConfig, d: int, *, fused: bool = False) -> Activations:
    """Both sides of the non-linearity; backward, the gradients of both and torch's factor."""
    hidden, gated = config.width(d), config.kind is MlpKind.swiglu
    into = 2 * hidden if gated else hidden
    work = into if gated and fused else into + hidden
    return Activations(Numbers(into + hidden), Numbers(into + d), Numbers(work))


def mixer(letter: str, config: ModelConfig, *, fused: bool) -> Activations:
    """Of the mixer that a letter of a pattern names, without the norm before it."""
    match letter:
        case "A":
            return _attention(config.attention, config.d_model, fused=fused)
        case "W":
            return _attention(config.sliding_window, config.d_model, fused=fused)
        case "M":
            return (_fused_mamba2 if fused else _mamba2)(config.mamba2, config.d_model)
        case "G":
            of = _fused_gated_deltanet if fused else _gated_deltanet
            return of(config.gated_deltanet, config.d_model)
        case _:
            raise AssertionError(letter)


def _attention(config: AttentionConfig, d: int, *, fused: bool) -> Activations:
    width = config.width(d)
    inner, shared = config.heads * width, config.kv_heads * width
    gate = inner if config.output_gate else 0
    projected, qk = inner + 2 * shared + gate, inner + shared
    banded = isinstance(config, SlidingWindowConfig)
    copies = 2 * WINDOW_COPIES * shared if banded else 0
    normed = qk if config.qk_norm and not fused else 0  # by torch, before the rotation, in fp32
    return Activations(
        Numbers(
            projected + qk + copies + inner + 2 * gate,
            normed + config.heads * fused,
            normed,
        ),
        Numbers(projected + inner + d, config.heads),
        Numbers(2 * inner + 2 * shared + copies // 2 + gate, 0, 0 if fused else qk),
    )


def _mamba2(config: Mamba2Config, d: int) -> Activations:
    """Scan: inputs, outputs, and a state a chunk; around it the skip, the gate and the norm."""
    heads, inner = config.heads(d), config.width(d)
    keys = config.groups * config.state_dim
    channels, state = inner + 2 * keys, inner * config.state_dim // CHUNK
    projected = inner + channels + heads
    # backward: keys, scores and factors of a chunk; of inputs and outputs, themselves or gradients
    work = 4 * keys + (heads + config.groups) * CHUNK + 5 * inner + 2 * state
    normed = 2 * inner if config.norm else 0
    return Activations(
        Numbers(projected + 2 * channels + 5 * inner, normed + state),
        Numbers(projected + d, inner + state),
        Numbers(0, work, 2 * inner),
    )


def _fused_mamba2(config: Mamba2Config, d: int) -> Activations:
    """Kernels keep their inputs, and so few states that they do not count; a gate alone is torch's,
    which keeps its other side."""
    heads, inner = config.heads(d), config.width(d)
    keys = config.groups * config.state_dim
    channels, projected = inner + 2 * keys, 2 * inner + 2 * keys + heads
    return Activations(
        Numbers(projected + channels + (3 if config.norm else 4) * inner, heads + config.groups),
        Numbers(projected + inner + d),
        Numbers(3 * inner + channels, 2 * keys + heads),
    )


def _gated_deltanet(config: GatedDeltaNetConfig, d: int) -> Activations:
    """Scan: inputs, the solved systems, what was written, a state a chunk; then norm and gate."""
    heads = config.value_heads
    keys, values = config.key_heads * config.key_dim, heads * config.value_dim
    wide = heads * config.key_dim  # keys as the value heads see them
    channels, state = 2 * keys + values, values * config.key_dim // CHUNK
    projected = channels + values + 2 * heads
    solved = heads * CHUNK + wide + 2 * values + state
    # backward: five factors [t, chunk] a head; keys, values and their gradients by each of them
    scores = (5 * heads + 2 * config.key_heads) * CHUNK
    work = 4 * keys + 4 * values + 6 * wide + scores + 2 * state
    return Activations(
        Numbers(projected + 2 * channels + 2 * values, 3 * keys + 2 * values + solved, 2 * keys),
        Numbers(projected + values + d, solved),
        Numbers(0, work, 2 * values),
    )


def _fused_gated_deltanet(config: GatedDeltaNetConfig, d: int) -> Activations:
    """Kernels keep their inputs and the inverses, and compute states again."""
    heads = config.value_heads
    keys, values = config.key_heads * config.key_dim, heads * config.value_dim
    wide, channels = heads * config.key_dim, 2 * keys + values
    state = values * config.key_dim // CHUNK
    projected = channels + values + 2 * heads
    inverse = heads * CHUNK
    return Activations(
        Numbers(projected + channels + 2 * keys + 2 * values + inverse, 3 * heads),
        Numbers(projected + values + inverse + d, heads),
        Numbers(4 * values + 2 * keys + wide + 2 * state, 2 * heads),
    )
