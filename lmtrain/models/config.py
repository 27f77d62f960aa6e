"""The model's configuration: typed data beside the thing it configures.

OmegaConf reads these classes as a schema, so they are plain mutable dataclasses (a frozen one
fails) and choices are ``StrEnum`` (``Literal`` is not supported). Treat instances as immutable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from math import inf
from typing import Any

from lmtrain.models.pattern import LETTERS, parse, sections
from lmtrain.models.rope import RopeScaling


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
    partial_rotary_factor: float = 1.0
    """Part of each head that turns, its first dimensions; the rest of it is NoPE (GPT-NeoX, arXiv
    2204.06745)."""
    rope_theta: float = 100_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    qk_norm: bool = True
    """RMSNorm over each head of q and k, before the rotation."""
    qk_norm_joint: bool = False
    """Normalise all heads of q together, and all of k (OLMo 2, arXiv 2501.00656)."""
    output_gate: bool = False
    """Multiply the heads by a sigmoid gate of the input."""
    norm_after: bool = False
    """In blocks of it alone, normalise what mixer and MLP give, not what they read (OLMo 2)."""

    def width(self, d_model: int) -> int:
        """Width of a head."""
        return d_model // self.heads if self.head_dim is None else self.head_dim

    def rotary_width(self, d_model: int) -> int:
        """Width of the part of a head that turns, rounded down as transformers does."""
        return int(self.width(d_model) * self.partial_rotary_factor)

    def problems(self, d_model: int) -> Iterator[tuple[str, str]]:
        """What is wrong with it: pairs of field and remedy."""
        if self.head_dim is None and d_model % self.heads:
            remedy = f"choose a divisor of {d_model} or set head_dim"
            yield "heads", f"{self.heads} does not divide model.d_model={d_model}: {remedy}"
        if self.heads % self.kv_heads:
            remedy = f"choose a divisor of {self.heads}"
            yield "kv_heads", f"{self.kv_heads} does not divide heads={self.heads}: {remedy}"
        if not 1 < self.rope_theta < inf:
            yield "rope_theta", f"{self.rope_theta} must be above 1 and finite"
        yield from self._rotary_problems(d_model)
        for name, problem in self.rope_scaling.problems(rope=self.rope):
            yield f"rope_scaling.{name}", problem
        if self.qk_norm_joint and not self.qk_norm:
            yield "qk_norm_joint", "true normalises nothing without qk_norm: say qk_norm=true"

    def _rotary_problems(self, d_model: int) -> Iterator[tuple[str, str]]:
        part, width = self.partial_rotary_factor, self.width(d_model)
        if part != 1 and not self.rope:
            yield "partial_rotary_factor", f"{part} of no rotation: leave it out, or say rope=true"
        elif not 0 < part <= 1:
            yield "partial_rotary_factor", f"{part} must be above 0 and at most 1"
        elif self.rope and part == 1 and width % 2:
            yield "head_dim", f"{width} is odd: rotary positions need pairs"
        elif self.rope and (self.rotary_width(d_model) % 2 or not self.rotary_width(d_model)):
            yield (
                "partial_rotary_factor",
                f"{part} of {width} dimensions is {self.rotary_width(d_model)}: rotary positions "
                "need pairs, choose a part that gives an even number",
            )


@dataclass(kw_only=True)
class SlidingWindowConfig(AttentionConfig):
    """Softmax attention over the last ``window`` tokens (letter ``W``)."""

    window: int = 256
    """A token sees itself and the window - 1 tokens before it."""

    def problems(self, d_model: int) -> Iterator[tuple[str, str]]:
        """What is wrong with it: pairs of field and remedy."""
        yield from super().problems(d_model)
        if self.window < 1:
            yield "window", f"{self.window} sees nothing: choose 1 (the token itself) or more"


@dataclass(kw_only=True)
class Mamba2Config:
    """Mamba-2 (letter ``M``); heads = inner / head_dim."""

    expand: int = 2
    """Inner width over d_model."""
    inner: int | None = None
    """Inner width; null is expand * d_model."""
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
    norm: bool = True
    """RMSNorm over each group of what was gated; false leaves the gate alone (Falcon-H1)."""
    dt_min: float = 0.001
    """Smallest step size drawn at initialisation."""
    dt_max: float = 0.1
    """Largest step size drawn at initialisation."""

    def width(self, d_model: int) -> int:
        """Inner width."""
        return self.expand * d_model if self.inner is None else self.inner

    def heads(self, d_model: int) -> int:
        """Heads: one state each."""
        return self.width(d_model) // self.head_dim

    def problems(self, d_model: int) -> Iterator[tuple[str, str]]:
        """What is wrong with it: pairs of field and remedy."""
        width = self.width(d_model)
        if width % self.head_dim:
            inner = "expand * d_model" if self.inner is None else "inner"
            yield "head_dim", f"{self.head_dim} does not divide {inner} = {width}: choose a divisor"
        elif self.heads(d_model) % self.groups:
            heads = self.heads(d_model)
            yield "groups", f"{self.groups} does not divide the {heads} heads: choose a divisor"
        yield from _step_size_problems(self)


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

    def problems(self, d_model: int) -> Iterator[tuple[str, str]]:
        """What is wrong with it: pairs of field and remedy."""
        del d_model  # heads have widths of their own
        if self.value_heads % self.key_heads:
            remedy = f"choose a divisor of value_heads={self.value_heads}"
            yield "key_heads", f"{self.key_heads} does not divide the value heads: {remedy}"
        if not 0 < self.beta_scale <= 2:  # noqa: PLR2004
            remedy = "choose 1, or 2 for negative eigenvalues"
            yield "beta_scale", f"{self.beta_scale} lets the state grow without bound: {remedy}"
        yield from _step_size_problems(self)


def _step_size_problems(config: Mamba2Config | GatedDeltaNetConfig) -> Iterator[tuple[str, str]]:
    if not 0 < config.dt_min <= config.dt_max < inf:
        between = f"above 0 and not above dt_max={config.dt_max}, which is finite"
        yield "dt_min", f"{config.dt_min} must be {between}"


@dataclass(kw_only=True)
class MlpConfig:
    """The feed-forward half of a block."""

    kind: MlpKind = MlpKind.swiglu
    """swiglu: gated by SiLU, three matrices; relu2: squared ReLU, two."""
    hidden: int | None = None
    """Inner width; null is 8/3 d_model (swiglu) or 4 d_model (relu2), rounded up to 64."""

    def width(self, d_model: int) -> int:
        """Inner width."""
        if self.hidden is not None:
            return self.hidden
        thirds = 8 if self.kind is MlpKind.swiglu else 12
        return -(-thirds * d_model // (3 * 64)) * 64


@dataclass(kw_only=True)
class NormConfig:
    """RMSNorm."""

    eps: float = 1e-6
    """Added to the mean square before its root."""
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
    """Topology: A attention, W window, M Mamba-2, G Gated DeltaNet; small letter: no MLP; ``-``:
    MLP only; ``[AM]``: side by side; ``(GGGA)6``: repeat."""
    branch_norm: bool = True
    """Normalise what each of several mixers side by side gives, before their mean is taken."""
    vocab_size: int | None = None
    """Rows of the embedding; null is that of the data, rounded up to a multiple of 64."""
    tie_embeddings: bool = True
    """Use the embedding as output projection."""
    init_std: float = 0.02
    """Standard deviation of the embedding and of every projection into a block; projections back
    to the residual stream are divided by the square root of their number."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    sliding_window: SlidingWindowConfig = field(default_factory=SlidingWindowConfig)
    mamba2: Mamba2Config = field(default_factory=Mamba2Config)
    gated_deltanet: GatedDeltaNetConfig = field(default_factory=GatedDeltaNetConfig)
    mlp: MlpConfig = field(default_factory=MlpConfig)
    norm: NormConfig = field(default_factory=NormConfig)

    def explicit(self) -> ModelConfig:
        """The same stack, with the widths that null stands for."""
        d = self.d_model
        return replace(
            self,
            attention=replace(self.attention, head_dim=self.attention.width(d)),
            sliding_window=replace(self.sliding_window, head_dim=self.sliding_window.width(d)),
            mamba2=replace(self.mamba2, inner=self.mamba2.width(d)),
            mlp=replace(self.mlp, hidden=self.mlp.width(d)),
        )

    def check(self) -> list[str]:
        """Every problem, each naming key, value and remedy; empty when there is none.

        Sections of mixers that the pattern has not are not judged: no default of theirs need suit
        ``d_model``.
        """
        sizes = {name: getattr(self, name) for name in ("d_model", "n_layers", "vocab_size")}
        small = [n for n, size in sizes.items() if size is not None and size < 1]
        if small:
            return [f"model.{name}={sizes[name]} must be at least 1" for name in small]
        try:
            blocks, problems = parse(self.pattern, self.n_layers), list[str]()
            absent = {*LETTERS.values()} - sections(blocks)
        except ValueError as error:
            problems, absent = [str(error)], set[str]()
        problems += [
            f"model.{part}.{field}={problem}"
            for part, value in ((f.name, getattr(self, f.name)) for f in fields(self))
            if is_dataclass(value) and part not in absent
            for field, problem in _problems(value, self.d_model)
        ]
        for name, value in {"init_std": self.init_std, "norm.eps": self.norm.eps}.items():
            if not 0 < value < inf:
                problems.append(f"model.{name}={value} must be positive and finite")
        return problems


_SIZES = {
    *("heads", "kv_heads", "head_dim", "expand", "inner", "state_dim", "groups", "conv_width"),
    *("key_heads", "value_heads", "key_dim", "value_dim", "hidden"),
}


def _problems(part: Any, d_model: int) -> list[tuple[str, str]]:
    """Sizes below one first: what divides by them is asked only when they are sound."""
    sizes = ((f.name, getattr(part, f.name)) for f in fields(part) if f.name in _SIZES)
    small = [(n, f"{v} must be at least 1") for n, v in sizes if v is not None and v < 1]
    if small or not hasattr(part, "problems"):
        return small
    return list(part.problems(d_model))
