"""What the width of a model changes in its first values and in its learning rates.

Maximal update parametrisation (muP; Yang et al. 2022, arXiv 2203.03466, table 3), without factors
in the forward pass. With ``m`` the width over the base width, at which nothing changes:

| parameter | std of its first values | learning rate of AdamW |
|---|---|---|
| embedding, convolutions, norms, biases, decay rates | 1 | 1 |
| projections inside blocks | m^-1/2 | 1 / m |
| output head | 1 / m | 1 / m |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lmtrain.models.layers import Linear

if TYPE_CHECKING:
    from lmtrain.models.decoder import Decoder


class WidthFactors(NamedTuple):
    """What standard parametrisation is multiplied by."""

    std: float = 1.0
    """The standard deviation of first values."""
    rate: float = 1.0
    """The learning rate of AdamW."""


def width_factors(model: Decoder, name: str, base_width: int | None) -> WidthFactors:
    """The row of the table above for one parameter; ones where ``base_width`` is None."""
    module = model.get_submodule(name.rpartition(".")[0])
    if base_width is None or not isinstance(module, Linear):
        return WidthFactors()
    m = model.config.d_model / base_width
    return WidthFactors(std=1 / m if module is model.head else m**-0.5, rate=1 / m)
