"""Rematerialisation: a region that keeps little for the backward pass and is computed again there.

``full`` keeps what goes into the region and what came from other processes: a recomputation never
communicates. ``selective`` also keeps what was dear to compute: the outputs of matrix products,
attention and recurrences.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from threading import local
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from torch.autograd.graph import save_on_cpu
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

if TYPE_CHECKING:
    from torch import Tensor
    from torch._ops import OpOverload

T = TypeVar("T")
Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]
"""Around the first pass of a region, and around its recomputation."""

DEAR = frozenset({
    "aten::mm",
    "aten::addmm",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "torch_attn::_varlen_attn",
    "lmtrain::gated_delta",
    "lmtrain::ssd",
})  # fmt: skip
"""Operators whose outputs ``selective`` keeps."""


class Remat(Protocol):
    """Runs a region so that its inside is computed again in the backward pass."""

    def __call__(self, run: Callable[..., Tensor], *args: Any) -> Tensor:
        """``run(*args)``."""
        ...


def full(run: Callable[..., Tensor], *args: Any) -> Tensor:
    """``run(*args)``, which keeps its tensor arguments, and what came from other processes."""
    return _checkpoint(run, *args, context_fn=contexts)


def selective(run: Callable[..., Tensor], *args: Any) -> Tensor:
    """``full``, which also keeps the results of ``DEAR`` operators and of ``keep``."""
    return _checkpoint(run, *args, context_fn=_selective_contexts)


def offloaded(run: Callable[..., Tensor], *args: Any) -> Tensor:
    """``full``, whose tensor arguments wait in the host's memory."""
    with save_on_cpu(pin_memory=True):  # arguments alone: a region saves by hooks of its own
        return full(run, *args)


def remember(start: Callable[[], Callable[[], T]]) -> Callable[[], T]:
    """``start()``, and a function that waits for what it began.

    In the first pass of a region the result is kept; in its recomputation nothing is started and
    the kept result is given. Outside of a region it is just ``start()``.
    """
    tape = _tape()
    if tape is None:
        return start()
    if tape.replaying:
        result: T = tape.results.popleft()  # type: ignore[assignment]
        return lambda: result
    with _on(None):
        wait = start()

    def finish() -> T:
        with _on(None):
            result = wait()
        tape.results.append(result)
        return result

    return finish


def keep(compute: Callable[[], T]) -> T:
    """``compute()``, whose result only a ``selective`` region keeps.

    Return none of its tensors from an ``autograd.Function`` but detached: what is kept stays out of
    the graph.
    """
    tape = _tape()
    if tape is None or not tape.keeps:
        return compute()
    return remember(lambda: compute)()


@dataclass(eq=False)
class _Tape:
    """What the first pass of a region kept, in order."""

    keeps: bool = False
    replaying: bool = False
    results: deque[object] = field(default_factory=deque[object])


_here = local()


def _tape() -> _Tape | None:
    """That of the region that is being computed; None also inside of what is kept as a whole."""
    return getattr(_here, "tape", None)


def contexts() -> Contexts:
    """Of a ``full`` region."""
    tape = _Tape()
    return _on(tape), _on(tape, replaying=True)


def _selective_contexts() -> Contexts:
    tape = _Tape(keeps=True)
    first, again = create_selective_checkpoint_contexts(_policy)
    return _both(_on(tape), _InRegion(tape, first)), _both(_on(tape, replaying=True), again)


def _policy(_: object, operator: OpOverload, *_args: Any, **_named: Any) -> CheckpointPolicy:
    dear = operator.name() in DEAR
    return CheckpointPolicy.MUST_SAVE if dear else CheckpointPolicy.PREFER_RECOMPUTE


class _InRegion(TorchDispatchMode):
    """Shows ``mode`` the operators of a region, but none inside of what is kept as a whole.

    Torch finds what it kept by the number of a call among those of its operator, and a
    recomputation does not make the calls inside.
    """

    def __init__(self, tape: _Tape, mode: TorchDispatchMode) -> None:
        super().__init__()
        self.tape, self.mode = tape, mode

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """As the mode that is shown them."""
        return True

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if _tape() is not self.tape:
            return func(*args, **kwargs)
        return self.mode.__torch_dispatch__(func, types, args, kwargs)


@contextmanager
def _both(
    outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]
) -> Generator[None]:
    with outer, inner:
        yield


@contextmanager
def _on(tape: _Tape | None, *, replaying: bool = False) -> Generator[None]:
    before, _here.tape = _tape(), tape
    if tape is not None:
        tape.replaying = replaying
    try:
        yield
    finally:
        _here.tape = before


def _checkpoint(run: Callable[..., Tensor], *args: Any, context_fn: Callable[[], Contexts]) -> Any:
    """Nothing in a region draws random numbers, so their state is not kept."""
    return checkpoint(
        run, *args, use_reentrant=False, preserve_rng_state=False, context_fn=context_fn
    )
