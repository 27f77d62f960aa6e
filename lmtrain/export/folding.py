"""Constant factors in front of linear maps, which an import multiplies into the weights.

An architecture may scale what an embedding or a projection gives by a number of its
``config.json``. The weight times that number computes the same, so no forward pass here has them.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from lmtrain.train.stored import Read

Json = dict[str, Any]
Factors = dict[str, float | Tensor]
"""By the end of a tensor's name: a factor of the whole, or ``[rows, 1]`` of each row."""


def folded(read: Read, factors: Factors) -> Read:
    """The tensors times their factors, in fp32: half precision would be rounded a second time."""

    def look_up(name: str) -> Tensor:
        tensor = read(name)
        for end, factor in factors.items():
            if name.endswith(end):
                return tensor.float() * factor
        return tensor

    return look_up


def multiplier(said: Json, key: str) -> float:
    """A factor of a ``config.json``.

    Raises:
        ValueError: it is no finite number above 0; weights times 0 would be lost.
    """
    return _positive(said[key], f"{key}={said[key]}")


def multipliers(said: Json, key: str, count: int) -> list[float]:
    """Several under one key; null is as many ones.

    Raises:
        ValueError: there are more or fewer, or one is no finite number above 0.
    """
    found = said[key]
    if found is None:
        return [1.0] * count
    if not isinstance(found, list | tuple) or len(found) != count:
        raise ValueError(f"it says {key}={found}: there must be {count}")
    return [_positive(each, f"{key}={found}") for each in found]


def ends(*, embedding: float, logits: float, tied: bool, last_norm: str) -> Factors:
    """Of what the embedding gives and of the logits.

    The scale of the last norm takes the second: it stands right before the head. A tied head reads
    the scaled table, which that scale undoes, so that the two stay one.
    """
    return {
        "model.embed_tokens.weight": embedding,
        last_norm: logits / embedding if tied else logits,
    }


def _positive(value: Any, words: str) -> float:
    if not isinstance(value, int | float) or not 0 < value < inf:
        raise ValueError(f"it says {words}: a multiplier must be a number above 0")
    return float(value)
