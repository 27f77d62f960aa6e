"""From a model on the meta device to one spread over processes: strategies, remat, shards.

The model asks for none of this: it is done to it from outside, before its parameters have storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from lmtrain.budget import choose
from lmtrain.models.mixers.attention import Attention
from lmtrain.models.mixers.gated_deltanet import GatedDeltaNet
from lmtrain.models.mixers.mamba2 import Mamba2
from lmtrain.ops.attention import attend
from lmtrain.ops.remat import full, offloaded, selective
from lmtrain.parallel.gather import gather
from lmtrain.parallel.halo import halo_attention, halo_convolution
from lmtrain.parallel.lasp2 import Lasp2
from lmtrain.parallel.ring import ring
from lmtrain.parallel.strategy import Strategy
from lmtrain.parallel.ulysses import ulysses
from lmtrain.parallel.zeco import Zeco
from lmtrain.settings.engine import Remat

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout
    from lmtrain.models.decoder import Decoder
    from lmtrain.ops.kernel import Convolve, Kernel
    from lmtrain.parallel.cost import Choice
    from lmtrain.parallel.mesh import SequenceMesh
    from lmtrain.planner import Choose


class Across(Protocol):
    """A kernel over the spans of ``degree`` neighbours that hold a row alone; one is here."""

    def __call__(
        self, *tensors: Tensor, layout: SequenceLayout, degree: int, choice: Choice
    ) -> Tensor:
        """Over the span of ``layout``."""
        ...


def share_rows(model: Decoder, choosers: Mapping[str, Choose], mesh: SequenceMesh) -> None:
    """Let the ranks of ``mesh`` hold every row together: bind strategies to all mixers.

    Args:
        model: with the kernels of one process.
        choosers: for each letter of the pattern, what picks its strategy.
        mesh: the ranks.

    Raises:
        TypeError: a mixer has no strategy.
    """
    for block in model.blocks:
        for letter, mixer in zip(block.spec.mixers, block.mixers, strict=True):  # type: ignore[arg-type, union-attr]
            bind(mixer, choosers[letter], mesh)  # type: ignore[arg-type]


def bind(mixer: nn.Module, choose: Choose, mesh: SequenceMesh) -> None:
    """Put strategies in place of the kernels of one mixer.

    Raises:
        TypeError: it has no strategy.
    """
    match mixer:
        case Attention():
            across = _attention(mixer.kernel, mixer.window, mesh)
            mixer.kernel = _where_documents_cross(mixer.kernel, across, choose, mesh)
        case Mamba2() | GatedDeltaNet():
            across = _recurrence(mixer, mixer.kernel, mesh)
            mixer.kernel = _where_documents_cross(mixer.kernel, across, choose, mesh)
            mixer.convolve = _convolution(mixer.convolve, mesh)
        case _:
            raise TypeError(
                f"{type(mixer).__name__} has no strategy to share rows: use parallel.sequence=1"
            )


def _where_documents_cross(
    local: Kernel, across: Across, choose: Choose, mesh: SequenceMesh
) -> Kernel:
    """``local`` where no document leaves a span; else ``across`` the fewest neighbours."""

    def kernel(*tensors: Tensor, layout: SequenceLayout) -> Tensor:
        degree = layout.derive(_degree, mesh.size)
        if degree == 1:
            return local(*tensors, layout=layout)
        choice, alone = layout.derive(_chosen, choose), layout.derive(_alone, degree)
        return across(*tensors, layout=alone, degree=degree, choice=choice)

    return kernel


def _attention(local: Kernel, window: int | None, mesh: SequenceMesh) -> Across:
    def across(*qkv: Tensor, layout: SequenceLayout, degree: int, choice: Choice) -> Tensor:
        group = mesh.block(degree)
        match choice.strategy:
            case Strategy.ring | Strategy.zigzag:
                return ring(*qkv, layout=layout, group=group, window=window, zigzag=choice.zigzag)
            case Strategy.ulysses:
                return ulysses(local, *qkv, layout=layout, group=group)
            case Strategy.usp:
                outer = mesh.strided(degree, choice.ulysses)

                def inner(*qkv: Tensor, layout: SequenceLayout) -> Tensor:
                    return ring(
                        *qkv, layout=layout, group=outer, window=window, zigzag=choice.zigzag
                    )

                return ulysses(inner, *qkv, layout=layout, group=mesh.block(choice.ulysses))
            case Strategy.gather:
                return gather(*qkv, layout=layout, group=group, window=window)
            case Strategy.halo if window:
                kernel = partial(attend, window=window)
                return halo_attention(kernel, window, *qkv, layout=layout, group=group)
            case _:
                raise AssertionError(f"{choice.strategy} was chosen for attention")

    return across


def _recurrence(mixer: Mamba2 | GatedDeltaNet, local: Kernel, mesh: SequenceMesh) -> Across:
    def across(*inputs: Tensor, layout: SequenceLayout, degree: int, choice: Choice) -> Tensor:
        group = mesh.block(degree)
        match choice.strategy:
            case Strategy.lasp2:
                return mixer.rule.scan(inputs, layout, carry=Lasp2(group))[0]
            case Strategy.zeco:
                return mixer.rule.scan(inputs, layout, carry=Zeco(group, choice.blocks))[0]
            case Strategy.ulysses:
                return ulysses(local, *inputs, layout=layout, group=group)
            case _:
                raise AssertionError(f"{choice.strategy} was chosen for a recurrence")

    return across


def _convolution(local: Convolve, mesh: SequenceMesh) -> Convolve:
    def convolve(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        widths: Sequence[int],
        *,
        layout: SequenceLayout,
    ) -> tuple[Tensor, ...]:
        degree = layout.derive(_degree, mesh.size)
        if degree == 1:
            return local(x, weight, bias, widths, layout=layout)
        alone, group = layout.derive(_alone, degree), mesh.block(degree)
        return halo_convolution(local, x, weight, bias, widths, layout=alone, group=group)

    return convolve


def _degree(layout: SequenceLayout, ranks: int) -> int:
    if layout.bounds[-1] != ranks * len(layout):
        raise ValueError(f"a span of {len(layout)} is not one of {ranks} of {layout.bounds[-1]}")
    return layout.degree(ranks)


def _alone(layout: SequenceLayout, degree: int) -> SequenceLayout:
    """The block of ``degree`` spans that this one is in, as a row of its own."""
    first = layout.start - layout.start % (degree * len(layout))
    return layout.restricted(first, first + degree * len(layout))


def _chosen(layout: SequenceLayout, choose: Choose) -> Choice:
    return choose(layout)


def rematerialize(
    model: Decoder,
    remat: Remat,
    budget: float | None = None,
    *,
    element: int = 4,
    offload: bool = False,
) -> None:
    """Let blocks keep no more than ``remat`` says, and compute the rest again in the backward.

    Args:
        model: bound to its operations.
        remat: of every block, or ``budget``, which chooses.
        budget: share of what ``none`` keeps.
        element: bytes of an activation.
        offload: what ``full`` keeps waits in the host's memory.

    Raises:
        ValueError: the budget is too small.
    """
    whole = offloaded if offload else full
    again = {Remat.none: None, Remat.selective: selective, Remat.full: whole}
    kinds = [remat] * len(model.blocks)
    if remat is Remat.budget:
        assert budget is not None
        kinds = choose(model.config, budget, element=element)
    for block, kind in zip(model.blocks, kinds, strict=True):
        block.remat = again[kind]  # type: ignore[assignment]


def reshard(model: Decoder) -> None:
    """Let the model hold its shards again: a forward pass without a backward leaves some whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def write(parameter: Tensor, values: Tensor) -> None:
    """Put the full ``values``, the same on every process, into a parameter, sharded or not."""
    if isinstance(parameter, DTensor):
        mesh, placements = parameter.device_mesh, parameter.placements
        on_device = values.to(mesh.device_type)
        values = distribute_tensor(on_device, mesh, placements, src_data_rank=None)
    parameter.copy_(values)
