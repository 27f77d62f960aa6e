"""The model's configuration: typed data beside the thing it configures.

OmegaConf reads these classes as a schema, so they are plain mutable dataclasses (a frozen one
fails) and choices are ``StrEnum`` (``Literal`` is not supported). Treat instances as immutable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class MlpKind(StrEnum):
    """What stands between the two halves of the MLP."""

    swiglu = "swiglu"
    relu2 = "relu2"


@dataclass(kw_only=True)
class AttentionConfig:
    """Softmax attention over the whole document (letter ``A``)."""

    heads: int = 4
    """Query heads."""
    kv_heads: int = 4
    """Key and value heads; each serves heads / kv_heads query heads (GQA)."""
    head_dim: int | None = None
    """Width of a head; null is d_model / heads."""
    rope: bool = True
    """Rotary positions; false is NoPE."""
    rope_theta: float = 100_000.0
    """Base of the rotary frequencies."""
    qk_norm: bool = True
    """RMSNorm over each head of q and k, before the rotation."""
    output_gate: bool = False
    """Multiply the heads by a sigmoid gate of the input."""


@dataclass(kw_only=True)
class SlidingWindowConfig(AttentionConfig):
    """Softmax attention over the last ``window`` tokens (letter ``W``)."""

    window: int = 256
    """A token sees itself and the window - 1 tokens before it."""


@dataclass(kw_only=True)
class Mamba2Config:
    """Mamba-2 (letter ``M``); heads = expand * d_model / head_dim."""

    expand: int = 2
    """Inner width over d_model."""
    head_dim: int = 64
    """Width of a head, the value width of its state."""
    state_dim: int = 64
    """Key width of the state (N in the paper)."""
    groups: int = 1
    """Groups of heads that share one B and C."""
    conv_width: int = 4
    """Taps of the short convolution."""
    conv_bias: bool = True
    """Bias of the short convolution."""
    dt_min: float = 0.001
    """Smallest step size drawn at initialisation."""
    dt_max: float = 0.1
    """Largest step size drawn at initialisation."""


@dataclass(kw_only=True)
class GatedDeltaNetConfig:
    """Gated DeltaNet (letter ``G``)."""

    key_heads: int = 4
    """Query and key heads; each serves value_heads / key_heads value heads."""
    value_heads: int = 4
    """Value heads: one state each."""
    key_dim: int = 64
    """Width of a key head."""
    value_dim: int = 64
    """Width of a value head."""
    conv_width: int = 4
    """Taps of the short convolution."""
    beta_scale: float = 1.0
    """1: beta in (0, 1); 2: beta in (0, 2), which allows negative eigenvalues."""
    dt_min: float = 0.001
    """Smallest step size drawn at initialisation."""
    dt_max: float = 0.1
    """Largest step size drawn at initialisation."""


@dataclass(kw_only=True)
class MlpConfig:
    """The feed-forward half of a block."""

    kind: MlpKind = MlpKind.swiglu
    hidden: int | None = None
    """Inner width; null is 8/3 d_model (swiglu) or 4 d_model (relu2), rounded up to 64."""


@dataclass(kw_only=True)
class NormConfig:
    """RMSNorm."""

    eps: float = 1e-6
    zero_centered: bool = False
    """Scale by (1 + weight), with weight starting at 0."""


@dataclass(kw_only=True)
class ModelConfig:
    """A decoder stack."""

    name: str = "custom"
    """A name for reports; it decides nothing."""
    d_model: int = 256
    """Width of the residual stream."""
    n_layers: int = 4
    """Blocks; the pattern word is tiled to this many."""
    pattern: str = "GWMA"
    """Topology: A attention, W window, M Mamba-2, G GatedDeltaNet; small letter: no MLP; ``-``: MLP
    only; ``[AM]``: side by side; ``(GGGA)6``: repeat."""
    vocab_size: int | None = None
    """Rows of the embedding; null is the token store's vocabulary rounded up to 64."""
    tie_embeddings: bool = True
    """Use the embedding as output projection."""
    init_std: float = 0.02
    """Standard deviation of the embedding and of every projection into a block; projections back
    to the residual stream are divided by sqrt(2 n_layers)."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    sliding_window: SlidingWindowConfig = field(default_factory=SlidingWindowConfig)
    mamba2: Mamba2Config = field(default_factory=Mamba2Config)
    gated_deltanet: GatedDeltaNetConfig = field(default_factory=GatedDeltaNetConfig)
    mlp: MlpConfig = field(default_factory=MlpConfig)
    norm: NormConfig = field(default_factory=NormConfig)
