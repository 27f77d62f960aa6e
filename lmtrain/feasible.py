"""Whether the operations that a run asks for take the shapes and strategies of its mixers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.models.pattern import LETTERS
from lmtrain.ops.config import CARRYING, AttentionKind, Backend, OpsConfig, size_problems
from lmtrain.ops.kernel import Sizes, Width
from lmtrain.parallel.shape import AttentionShape, RecurrentShape
from lmtrain.parallel.strategy import Strategy
from lmtrain.shapes import shapes

if TYPE_CHECKING:
    from lmtrain.models.config import ModelConfig
    from lmtrain.parallel.config import ParallelConfig

FLASH_WIDTHS = range(8, 257, 8)


def problems(
    backend: Backend, ops: OpsConfig, model: ModelConfig, parallel: ParallelConfig, *, bf16: bool
) -> list[str]:
    """Every problem of a valid model, each a sentence with key, value and remedy.

    Args:
        backend: what ``ops.backend`` comes to here.
        ops: what else was asked for.
        model: the shapes of its mixers count.
        parallel: strategies may hand states from process to process.
        bf16: whether activations are in 16 bits.
    """
    found = list[str]()
    if ops.attention is AttentionKind.varlen and not bf16:
        found.append(
            "ops.attention=varlen computes in 16 bits: say engine.precision=bf16, or "
            "ops.attention=sdpa"
        )
    if backend is Backend.flash_qla and not bf16:
        found.append(
            "ops.backend=flash_qla computes in 16 bits: say engine.precision=bf16, or "
            "ops.backend=triton"
        )
    found += size_problems(backend, Width("rms_norm", model.d_model))
    for letter, shape in shapes(model).items():
        key = f"model.{LETTERS[letter]}"
        if isinstance(shape, AttentionShape):
            if ops.attention is AttentionKind.varlen and shape.head_dim not in FLASH_WIDTHS:
                found.append(
                    f"{key}.head_dim={shape.head_dim} is no multiple of 8 up to 256, which "
                    "ops.attention=varlen needs: change it, or say ops.attention=sdpa"
                )
            continue
        found += size_problems(backend, _sizes(shape, model))
        if parallel.sequence > 1 and backend not in CARRYING:
            found += _carried(backend, letter, parallel)
    return found


def _sizes(shape: RecurrentShape, model: ModelConfig) -> Sizes:
    """What the mixer of this shape calls its operations with."""
    delta = shape.letter == "G"
    return Sizes(
        *("gated_delta" if delta else "ssd", shape.key_heads, shape.heads),
        *(shape.key_dim, shape.value_dim, shape.taps),
        norm=delta or model.mamba2.norm,
    )


def _carried(backend: Backend, letter: str, parallel: ParallelConfig) -> list[str]:
    """Strategies that would bring a state from another process."""
    if not any(parallel.may_use(way, letter) for way in (Strategy.lasp2, Strategy.zeco)):
        return []
    return [
        f"parallel.strategy.{letter}={parallel.strategy.of(letter)} may hand states to processes, "
        f"which ops.backend={backend} does not take: say parallel.strategy.{letter}=ulysses, or "
        "ops.backend=torch"
    ]
