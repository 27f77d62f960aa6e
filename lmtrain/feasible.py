"""Whether the operations that a run asks for take the shapes and strategies of its mixers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.models.pattern import LETTERS
from lmtrain.ops.config import CARRYING, AttentionKind, Backend, OpsConfig
from lmtrain.parallel.shape import AttentionShape, RecurrentShape
from lmtrain.parallel.strategy import Strategy
from lmtrain.shapes import shapes

if TYPE_CHECKING:
    from lmtrain.models.config import ModelConfig
    from lmtrain.parallel.config import ParallelConfig

TRITON_WIDTHS = range(16, 257)
"""Of heads, in our kernels: a product of tiles needs 16."""
TRITON_TAPS = 8
FLASH_QLA_WIDTH = 128
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
    for letter, shape in shapes(model).items():
        key = f"model.{LETTERS[letter]}"
        if isinstance(shape, AttentionShape):
            if ops.attention is AttentionKind.varlen and shape.head_dim not in FLASH_WIDTHS:
                found.append(
                    f"{key}.head_dim={shape.head_dim} is no multiple of 8 up to 256, which "
                    "ops.attention=varlen needs: change it, or say ops.attention=sdpa"
                )
            continue
        found += [f"{key}.{problem}" for problem in _widths(backend, shape)]
        if parallel.sequence > 1 and backend not in CARRYING:
            found += _carried(backend, letter, parallel)
    return found


def _widths(backend: Backend, shape: RecurrentShape) -> list[str]:
    """Fields of a mixer that its kernels do not take."""
    if backend not in (Backend.triton, Backend.flash_qla):
        return []
    delta = shape.letter == "G"
    names = ("key_dim", "value_dim") if delta else ("state_dim", "head_dim")
    widths = dict(zip(names, (shape.key_dim, shape.value_dim), strict=True))
    found = [
        f"{name}={width} is not between 16 and 256, as ops.backend={backend} needs: change it, or "
        "say ops.backend=torch"
        for name, width in widths.items()
        if width not in TRITON_WIDTHS
    ]
    if delta and backend is Backend.flash_qla:
        found = [
            f"{name}={width} is not 128, which ops.backend=flash_qla needs: change it, or say "
            "ops.backend=triton"
            for name, width in widths.items()
            if width != FLASH_QLA_WIDTH
        ]
    if shape.taps > TRITON_TAPS:
        found.append(
            f"conv_width={shape.taps} is more than the {TRITON_TAPS} taps of "
            f"ops.backend={backend}: lower it, or say ops.backend=torch"
        )
    return found


def _carried(backend: Backend, letter: str, parallel: ParallelConfig) -> list[str]:
    """Strategies that would bring a state from another process."""
    if not any(parallel.may_use(way, letter) for way in (Strategy.lasp2, Strategy.zeco)):
        return []
    return [
        f"parallel.strategy.{letter}={parallel.strategy.of(letter)} may hand states to processes, "
        f"which ops.backend={backend} does not take: say parallel.strategy.{letter}=ulysses, or "
        "ops.backend=torch"
    ]
