"""Compiling the blocks of a model: a few graphs, whatever documents come.

What depends on the documents stays out of the graphs: recurrences, convolutions, attention and its
tables of angles run as they are, where a graph ends, with all communication. Between them a graph
sees tensors ``[t, …]`` of one size and stride, and no layout, so no length, packing or number of
documents can ask for another one. Equal blocks share their graphs.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from lmtrain.models.mixers.attention import Attention
from lmtrain.models.mixers.gated_deltanet import GatedDeltaNet
from lmtrain.models.mixers.mamba2 import Mamba2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn
    from torch.fx import GraphModule

    from lmtrain.layout import SequenceLayout
    from lmtrain.models.decoder import Decoder

T = TypeVar("T")
PASSES = 4
"""Ways in which one code is compiled for a kind of block: with gradients and without, for the rows
of training and for others."""


class Compiler:
    """A compiler of torch, and how many graphs it was given."""

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend
        self.graphs = 0

    def __call__(self, graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        """The compiled ``graph``."""
        self.graphs += 1
        return torch._dynamo.lookup_backend(self.backend)(graph, inputs)


def compile_blocks(model: Decoder, backend: str = "inductor") -> Compiler:
    """Compile what lies between the kernels of every block; the kernels stay.

    Args:
        model: with its strategies bound, before it runs.
        backend: a name that `torch.compile` knows.

    Returns:
        What counts the graphs.

    Raises:
        TypeError: a mixer has kernels that are not known here.
    """
    import torch._dynamo

    compiler = Compiler(backend)
    kinds = {block.spec for block in model.blocks}
    limit = PASSES * len(kinds)  # beyond it a kind would run as it is, without a word
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, limit)
    for block in model.blocks:
        for mixer in block.mixers:  # type: ignore[union-attr]
            _exclude(mixer)
        block.run = _closed(torch.compile(block.run, backend=compiler))  # type: ignore[arg-type]
    return compiler


class Closed:
    """A layout that code of graphs hands on and does not look into.

    torch 2.11 guards every field of a frozen dataclass that a graph is given, used or not,
    so that each number of documents would ask for a graph of its own.
    """

    def __init__(self, layout: SequenceLayout) -> None:
        self.layout = layout


def _closed(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, layout: run(x, Closed(layout))


def _open(value: Any) -> Any:
    return value.layout if isinstance(value, Closed) else value


def _exclude(mixer: nn.Module) -> None:
    """Let graphs end before what reads a layout."""
    match mixer:
        case Attention():
            mixer.kernel = _outside(mixer.kernel)
            mixer.angles = torch.compiler.disable(opening(mixer.angles))  # pyright: ignore[reportAttributeAccessIssue]
        case Mamba2() | GatedDeltaNet():
            mixer.kernel = _outside(mixer.kernel)
            mixer.convolve = _outside(mixer.convolve)
        case _:
            raise TypeError(f"{type(mixer).__name__} cannot be compiled: say engine.compile=false")


def opening(call: Callable[..., T]) -> Callable[..., T]:
    """What takes a layout, called with a closed one."""

    def run(*args: Any, **named: Any) -> T:
        return call(*map(_open, args), **{key: _open(value) for key, value in named.items()})

    return run


def _outside(kernel: Callable[..., T]) -> Callable[..., T]:
    """Outside of graphs; a graph asks for the strides of its inputs, and of what they are views of.

    Both may follow the documents, so results are contiguous, and views of nothing.
    """

    opened = opening(kernel)

    def run(*args: Any, **named: Any) -> Any:
        return tree_map_only(Tensor, _own, opened(*args, **named))

    return torch.compiler.disable(run)  # pyright: ignore[reportReturnType]


def _own(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format) if x._is_view() else x.contiguous()


@contextmanager
def watched(
    compiler: Compiler | None, tell: Callable[[str], None], *, step: int, first: bool, length: int
) -> Iterator[None]:
    """Around an update: tells what the ``first`` one compiled, and if a later one compiled more."""
    before = 0 if compiler is None else compiler.graphs
    yield
    new = 0 if compiler is None else compiler.graphs - before
    if new and first:
        tell(f"compiled {new} graphs; later steps should need no others")
    elif new:
        tell(
            f"step {step} (length {length}) compiled {new} more graphs, which takes time: say "
            "engine.compile=false if it goes on; TORCH_LOGS=recompiles shows why"
        )
