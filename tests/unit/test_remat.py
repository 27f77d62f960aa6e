"""What blocks keep for the backward pass: less with each mode, and never another gradient."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from test_decoder import build, config, tokens
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmtrain.layout import SequenceLayout
from lmtrain.parallelize import rematerialize
from lmtrain.settings.engine import Remat

if TYPE_CHECKING:
    from torch import Tensor

PATTERNS = ["A", "W", "M", "G", "GWMA", "[AM]-", "gw-"]
ROWS = {"packed": [1, 25, 34, 100], "equal": [80, 80], "one": [160]}
MODES = [Remat.none, Remat.selective, Remat.full]
DEAR = ("mm", "_scaled_dot_product_flash_attention_for_cpu", "solve_triangular")


class Ledger(TorchDispatchMode):
    """Counts calls of operators, and knows which storages that they gave are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls[func.name().removeprefix("aten::").removeprefix("linalg_")] += 1
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out

    @property
    def alive(self) -> int:
        """Bytes."""
        return sum(size for storage, size in self._storages.values() if not storage.expired())


class Step(NamedTuple):
    """A step's gradients, the bytes that were alive between forward and backward, and calls."""

    grads: list[Tensor]
    kept: int
    calls: Counter[str]


def step(word: str, lengths: list[int], remat: Remat) -> Step:
    """In fp64; what was derived from the layout is left out."""
    model, text = build(config(word)), tokens(sum(lengths))
    layout = SequenceLayout.of_lengths(lengths)
    rematerialize(model, remat)
    with torch.no_grad():
        model(text, layout)
    with Ledger() as ledger:
        loss = model(text, layout, text.roll(-1)).total
        kept = ledger.alive
        loss.backward()
    return Step([p.grad for p in model.parameters() if p.grad is not None], kept, ledger.calls)


@pytest.mark.parametrize("lengths", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("word", PATTERNS)
def test_less_is_kept_and_gradients_stay(word: str, lengths: list[int]) -> None:
    none, selective, full = (step(word, lengths, remat) for remat in MODES)
    for again in (selective, full):
        assert len(again.grads) == len(none.grads)
        for expected, actual in zip(none.grads, again.grads, strict=True):
            assert (actual - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert selective.kept < 0.8 * none.kept
    assert full.kept < 0.4 * selective.kept
    for dear in DEAR:
        assert selective.calls[dear] == none.calls[dear]
    assert full.calls["mm"] > none.calls["mm"]
