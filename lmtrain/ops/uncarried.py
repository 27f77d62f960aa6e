"""Recurrences of which only the whole scan exists: no state comes from another process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from lmtrain.ops.recurrence import Carry, Recurrence

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout
    from lmtrain.ops.config import Backend


class WholeScan(Protocol):
    """Outputs and final state of inputs ``q, k, v, …``, as ``Recurrence.scan`` without a carry."""

    def __call__(
        self, inputs: tuple[Tensor, ...], layout: SequenceLayout, initial: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """``[t, h, v]`` and ``[h, k, v]``."""
        ...


class Uncarried(Recurrence[Any, Any, Any]):
    """A rule that scans by ``whole`` and steps as ``rule`` does."""

    def __init__(self, backend: Backend, rule: Recurrence[Any, Any, Any], whole: WholeScan) -> None:
        self.backend, self.rule, self.whole = backend, rule, whole

    def scan(
        self,
        inputs: tuple[Tensor, ...],
        layout: SequenceLayout,
        initial: Tensor | None = None,
        carry: Carry | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Outputs and final state.

        Raises:
            ValueError: there is a carry.
        """
        if carry is not None:
            self._refuse()
        return self.whole(inputs, layout, initial if layout.continues else None)

    def step(self, inputs: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        """One token, by torch."""
        return self.rule.step(inputs, state)

    def _refuse(self, *_args: Any, **_named: Any) -> Any:
        raise ValueError(
            f"ops.backend={self.backend} takes no state from another process: say "
            "parallel.strategy.M=ulysses parallel.strategy.G=ulysses, or ops.backend=torch"
        )

    grid = begin = summary = inside = finish = _refuse
    begin_backward = cosummary = finish_backward = _refuse
