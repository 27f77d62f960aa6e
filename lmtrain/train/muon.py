"""Muon: momentum whose matrices are made nearly orthogonal (Jordan et al. 2024).

In one process it is `torch.optim.Muon`, bit for bit. That one takes an update for the whole matrix;
here it may be sharded: a matrix is then brought together by one process, orthogonalised there, and
handed out again, each process with about as much of this work as the others.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from lmtrain.settings.optim import MuonScale
from lmtrain.train.invariants import local

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration, the steepest at zero (Jordan et al. 2024)."""

ITERATIONS = 5
TINY = 1e-7
"""The smallest norm that a matrix is divided by."""


class MuonAdamW(torch.optim.Optimizer):
    """Muon for some matrices, AdamW for all else, at one learning rate.

    Args:
        matrices: the parameter group of Muon: ``params``, each of two dimensions, and their
            ``lr`` and ``weight_decay``.
        adamw: holds the rest.
        momentum: of Muon, as Nesterov's.
        scale: what the learning rate of a matrix is multiplied by.
        dtype: in which matrices are made orthogonal; bf16 is torch's.
    """

    def __init__(
        self,
        matrices: dict[str, Any],
        adamw: torch.optim.AdamW,
        *,
        momentum: float,
        scale: MuonScale,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__([matrices, *adamw.param_groups], {})
        adamw.param_groups, adamw.state = self.param_groups[1:], self.state
        self._adamw, self._momentum, self._scale, self._dtype = adamw, momentum, scale, dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: ARG002
        """Update all parameters that have a gradient."""
        self._adamw.step()
        group = self.param_groups[0]
        parameters = [p for p in group["params"] if p.grad is not None]
        updates = orthogonalize([self._momentums(p) for p in parameters], self._dtype)
        for parameter, update in zip(parameters, updates, strict=True):
            held = local(parameter)
            held.mul_(1 - group["lr"] * group["weight_decay"])
            rate = group["lr"] * relative_rate(self._scale, parameter.shape)
            held.add_(update.to(held.device), alpha=-rate)

    def _momentums(self, parameter: Tensor) -> Tensor:
        """The gradient, pushed on by those before it."""
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None, "only parameters with a gradient are asked for"
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        mean = state["momentum_buffer"].lerp_(grad, 1 - self._momentum)
        return grad.lerp(mean, self._momentum)


def relative_rate(scale: MuonScale, shape: Sequence[int]) -> float:
    """What the learning rate of a matrix is multiplied by.

    ``match_rms_adamw`` makes the root mean square of an update that of AdamW's, about 0.2 (Liu et
    al. 2025, arXiv 2502.16982); ``original`` is Jordan's, for a learning rate of Muon's own.
    """
    rows, columns = shape
    match scale:
        case MuonScale.match_rms_adamw:
            return 0.2 * sqrt(max(rows, columns))
        case MuonScale.original:
            return sqrt(max(1, rows / columns))


def orthogonalize(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Each matrix ``U S Vᵀ`` as about ``U Vᵀ``: the part that is held here, replicas agreeing
    bitwise."""
    if not matrices or not isinstance(matrices[0], DTensor):
        return [newton_schulz(matrix.to(dtype)) for matrix in matrices]
    sharded = [matrix for matrix in matrices if isinstance(matrix, DTensor)]
    mesh = sharded[0].device_mesh
    group, here = mesh.get_group(mesh.ndim - 1), mesh.get_local_rank(mesh.ndim - 1)
    size = dist.get_world_size(group)
    updates: list[Tensor] = []
    for first in range(0, len(sharded), size):
        mine = sharded[first : first + size]  # process i takes the i-th of them
        updates += _together(mine, dtype, group, here)
    return updates


def _together(
    matrices: Sequence[DTensor], dtype: torch.dtype, group: dist.ProcessGroup, here: int
) -> list[Tensor]:
    """Orthogonalise matrix ``i`` in process ``i``: one exchange there, one back."""
    size = dist.get_world_size(group)
    device = matrices[0].device_mesh.device_type  # they may lie on the host
    sent = [matrix.to_local().to(device).flatten() for matrix in matrices]
    lengths = [len(part) for part in sent] + [0] * (size - len(sent))
    rows, width = matrices[here].shape if here < len(matrices) else (0, 0)
    arriving = [count * width for count in _rows(rows, size)]
    whole = _exchange(torch.cat(sent), lengths, arriving, group)
    if width:
        whole = newton_schulz(whole.view(rows, width).to(dtype)).to(whole.dtype).flatten()
    back = _exchange(whole, arriving, lengths, group).split(lengths)
    held = (matrix.to_local().shape for matrix in matrices)
    return [part.view(shape) for part, shape in zip(back, held, strict=False)]  # some had no matrix


def newton_schulz(matrix: Tensor) -> Tensor:
    """``U S Vᵀ`` with singular values near one in place of ``S``."""
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / x.norm().clamp(min=TINY)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _rows(total: int, parts: int) -> list[int]:
    """How many of ``total`` rows each process holds, as FSDP2 cuts them."""
    each = -(-total // parts)
    return [min(each, max(0, total - each * part)) for part in range(parts)]


def _exchange(x: Tensor, sizes: list[int], arriving: list[int], group: dist.ProcessGroup) -> Tensor:
    """The pieces that all processes have for this one, in their order."""
    out = x.new_empty(sum(arriving))
    dist.all_to_all_single(out, x, arriving, sizes, group=group)
    return out
