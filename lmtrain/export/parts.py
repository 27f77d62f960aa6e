"""The links of mixers, MLPs and ends, as most models of transformers name them."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from lmtrain.export.links import (
    CONV,
    COPIED,
    Rewrite,
    filled,
    link,
    rows,
    scale,
)
from lmtrain.models.config import MlpKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.export.links import Link
    from lmtrain.export.targets import Json
    from lmtrain.models.config import (
        AttentionConfig,
        GatedDeltaNetConfig,
        Mamba2Config,
        ModelConfig,
    )


def norm(config: ModelConfig, *, centered: bool = False) -> Rewrite:
    """The weight of a norm of the residual stream or of heads; theirs is ``centered`` or not."""
    return scale(ours_centered=config.norm.zero_centered, theirs_centered=centered)


def attention(mixer: AttentionConfig, config: ModelConfig) -> Iterator[Link]:
    """Projections of their own; norms of q and k if there are any."""
    width = mixer.width(config.d_model)
    inner, shared = mixer.heads * width, mixer.kv_heads * width
    names = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
    yield link("in_proj.weight", *names, rewrite=rows(inner, shared, shared))
    yield link("out_proj.weight", "o_proj.weight")
    if mixer.qk_norm:
        yield link("q_norm.weight", "q_norm.weight", rewrite=norm(config))
        yield link("k_norm.weight", "k_norm.weight", rewrite=norm(config))


def mamba2(mixer: Mamba2Config) -> Iterator[Link]:
    """The same fused projection everywhere: ``z x B C dt``."""
    yield link("in_proj.weight", "in_proj.weight")
    yield link("conv_weight", "conv1d.weight", rewrite=CONV)
    if mixer.conv_bias:
        yield link("conv_bias", "conv1d.bias")
    for name in ("A_log", "D", "dt_bias"):
        yield link(name, name)
    if mixer.norm:
        yield link("norm_weight", "norm.weight")
    yield link("out_proj.weight", "out_proj.weight")


def check_steps(said: Json) -> None:
    """See that step sizes of Mamba-2 are not clamped.

    Raises:
        ValueError: they are, which lmtrain does not do.
    """
    least, most = said.get("time_step_limit") or (0.0, inf)
    if isinstance(most, dict):  # as transformers 5 spells infinity
        most = float(most["__float__"])
    if least > 0 or most != inf:
        raise ValueError(
            f"it keeps step sizes between {least} and {most} (time_step_limit): lmtrain does not"
        )


def delta_sizes(mixer: GatedDeltaNetConfig) -> tuple[int, int, int]:
    """Rows of ``q k v``, of the gate, and of ``beta`` or ``dt`` in the fused projection."""
    values = mixer.value_heads * mixer.value_dim
    return 2 * mixer.key_heads * mixer.key_dim + values, values, mixer.value_heads


def mlp(config: ModelConfig) -> Iterator[Link]:
    """Gate, up and down; up and down where nothing gates."""
    hidden = config.mlp.width(config.d_model)
    if config.mlp.kind is MlpKind.swiglu:
        names = ("gate_proj.weight", "up_proj.weight")
        yield link("in_proj.weight", *names, rewrite=rows(hidden, hidden))
    else:
        yield link("in_proj.weight", "up_proj.weight")
    yield link("out_proj.weight", "down_proj.weight")


def silent_mlp(config: ModelConfig) -> Iterator[Link]:
    """An MLP that adds nothing, for a library whose every block has one."""
    hidden, d = config.mlp.width(config.d_model), config.d_model
    for name in ("gate_proj.weight", "up_proj.weight"):
        yield filled(name, 0.0, hidden, d)
    yield filled("down_proj.weight", 0.0, d, hidden)


def ends(
    config: ModelConfig,
    *,
    embedding: str = "model.embed_tokens.weight",
    last_norm: str = "model.norm.weight",
    centered: bool = False,
    can_tie: bool = True,
) -> Iterator[Link]:
    """Embedding, last norm, output head."""
    if config.tie_embeddings and not can_tie:
        yield link("embedding.weight", embedding, "lm_head.weight", rewrite=COPIED)
    else:
        yield link("embedding.weight", embedding)
    if not config.tie_embeddings:
        yield link("head.weight", "lm_head.weight")
    yield link("norm.weight", last_norm, rewrite=norm(config, centered=centered))
