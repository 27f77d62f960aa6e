"""What blocks keep for the backward pass: less with each mode, and never another gradient."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from test_decoder import build, config, tokens
from torch.autograd.graph import save_on_cpu
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmtrain.budget import choose
from lmtrain.config import compose, to_yaml
from lmtrain.layout import SequenceLayout
from lmtrain.parallelize import rematerialize
from lmtrain.settings.engine import Device, EngineConfig, Remat

if TYPE_CHECKING:
    from torch import Tensor

PATTERNS = ["A", "W", "M", "G", "[AM]-"]
ROWS = {"packed": [1, 25, 34, 100], "equal": [80, 80]}
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


def step(
    word: str,
    lengths: list[int],
    remat: Remat,
    budget: float | None = None,
    *,
    offload: bool = False,
) -> Step:
    """In fp64; what was derived from the layout is left out."""
    model, text = build(config(word)), tokens(sum(lengths))
    layout = SequenceLayout.of_lengths(lengths)
    rematerialize(model, remat, budget, element=8, offload=offload)
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


@pytest.mark.parametrize("word", PATTERNS)
def test_offloaded_inputs_are_copies_and_nothing_else_is(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no GPU the copies lie in the same memory, so they can be counted."""
    copied: list[int] = []

    class Counted(save_on_cpu):
        def __init__(self, **pinned: Any) -> None:
            super().__init__(**pinned)
            pack = self.pack_hook
            self.pack_hook = lambda x: (copied.append(x.numel()), pack(x))[1]

    monkeypatch.setattr("lmtrain.ops.remat.save_on_cpu", Counted)
    lengths = ROWS["packed"]
    full, away = (step(word, lengths, Remat.full, offload=off) for off in (False, True))
    for expected, actual in zip(full.grads, away.grads, strict=True):
        assert torch.equal(actual, expected)
    settings = config(word)
    inputs = [numbers for numbers in copied if numbers]  # torch 2.11 also saves an empty tensor
    assert inputs == [sum(lengths) * settings.d_model] * settings.n_layers


@pytest.mark.parametrize("word", ["GWMA", "[AM]-", "a"])
@pytest.mark.parametrize("budget", [0.15, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_budget_is_kept(word: str, budget: float) -> None:
    """By what is alive, a block more or less: formulas know nothing of chunks and allocators."""
    settings = config(word)
    chosen = choose(settings, budget, element=8)
    assert chosen == choose(settings, budget, element=8)
    none, spent = step(word, [160], Remat.none), step(word, [160], Remat.budget, budget)
    for expected, actual in zip(none.grads, spent.grads, strict=True):
        assert (actual - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert spent.kept <= (budget + 1 / len(chosen)) * none.kept


def test_a_budget_computes_early_blocks_again_and_cheap_ones_first() -> None:
    none, selective, full = MODES
    settings = config("A", n_layers=4)
    order = [choose(settings, share / 40) for share in range(40, 5, -1)]
    seen = [kinds for kinds, _ in groupby(order)]
    assert seen == [
        [none] * 4,
        *([selective] * n + [none] * (4 - n) for n in range(1, 5)),
        *([full] * n + [selective] * (4 - n) for n in range(1, 5)),
    ]


def test_a_budget_that_nothing_fits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"engine.remat_budget=0.01 is less than the inputs"):
        choose(config("GWMA"), 0.01)
    assert EngineConfig(remat=Remat.budget).check() == [
        "engine.remat_budget=null must lie in (0, 1] with engine.remat=budget: "
        "say engine.remat_budget=0.5, or engine.remat=full"
    ]
    [told] = EngineConfig(remat_budget=0.5).check()
    assert (
        told == "engine.remat_budget=0.5 is of engine.remat=budget, and this is none: leave it out"
    )


def test_offloading_says_what_it_needs() -> None:
    cpu = EngineConfig(offload_activations=True, remat=Remat.full, device=Device.cpu)
    assert cpu.holding(1) == []
    [told] = cpu.check()
    assert told.startswith("engine.offload_activations=true needs a GPU")
    [told] = EngineConfig(offload_activations=True).holding(1)
    assert told.endswith("this is none: say engine.remat=full, or leave it out")


def test_the_old_name_of_full_is_read() -> None:
    assert compose(["engine.remat=block"]).engine.remat is Remat.full
    assert "remat: full" in to_yaml(compose(["engine.remat=block"]))


def test_a_budget_that_nothing_fits_is_refused_before_a_run() -> None:
    overrides = ["engine.remat=budget", "engine.device=cpu", "engine.remat_budget"]
    assert compose([*overrides[:2], f"{overrides[2]}=0.4"]).check(1) == []
    [told] = compose([*overrides[:2], f"{overrides[2]}=0.001"]).check(1)
    assert told.startswith("engine.remat_budget=0.001 is less than the inputs of the blocks")
