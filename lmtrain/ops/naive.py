"""The reference as a backend: every recurrence token by token, in at least fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lmtrain.ops import reference
from lmtrain.ops.config import Backend
from lmtrain.ops.gated_delta import GatedDelta
from lmtrain.ops.ssd import ScalarDecay
from lmtrain.ops.uncarried import Uncarried

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lmtrain.layout import SequenceLayout
    from lmtrain.ops.uncarried import WholeScan


def _exact(scan: Callable[..., tuple[Tensor, Tensor]]) -> WholeScan:
    """``scan`` in at least fp32, outputs in the dtype of ``v``."""

    def whole(
        inputs: tuple[Tensor, ...], layout: SequenceLayout, initial: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(inputs[2].dtype, torch.float32)
        out, final = scan(*(x.to(dtype) for x in inputs), layout=layout, initial=initial)
        return out.to(inputs[2].dtype), final

    return whole


gated_delta = Uncarried(Backend.reference, GatedDelta(), _exact(reference.gated_delta))
ssd = Uncarried(Backend.reference, ScalarDecay(), _exact(reference.ssd))
