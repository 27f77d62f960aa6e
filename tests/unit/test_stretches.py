"""Rows in stretches give what whole rows give, in memory that does not grow with the row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lmtrain.batch import IGNORED, Batch
from lmtrain.config import RunConfig, compose
from lmtrain.evaluate.states import states
from lmtrain.evaluate.stretches import likeliest, nats, row_for
from lmtrain.evaluate.subject import Subject
from lmtrain.layout import SequenceLayout
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.ops import reference
from lmtrain.parallel.mesh import Place
from lmtrain.settings.engine import Device, EngineConfig
from lmtrain.train.engines import LocalEngine

if TYPE_CHECKING:
    from torch import Tensor

SMALL = [
    "model.vocab_size=61", "model.d_model=32", "model.attention.heads=2",
    "model.attention.kv_heads=1", "model.sliding_window.heads=2", "model.sliding_window.kv_heads=1",
    "model.sliding_window.window=16", "model.mamba2.head_dim=16", "model.mamba2.state_dim=16",
    "model.gated_deltanet.key_heads=1", "model.gated_deltanet.value_heads=2",
    "model.gated_deltanet.key_dim=16", "model.gated_deltanet.value_dim=16",
]  # fmt: skip


def subject(pattern: str, *, dtype: torch.dtype = torch.float64) -> Subject:
    """A model with slow decays, so that far tokens matter."""
    run: RunConfig = compose([*SMALL, f"model.pattern={pattern}", "model.n_layers=4"])
    model = Decoder(run.model).to(dtype)
    initialize(model, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.sub_(4)
    engine = LocalEngine(EngineConfig(device=Device.cpu))
    return Subject(model, engine, run, Path("nowhere"))


def row(lengths: list[int]) -> Batch:
    draw = torch.Generator().manual_seed(1)
    tokens, targets = torch.randint(61, (2, sum(lengths)), generator=draw)
    targets[::5] = IGNORED
    return Batch(tokens, targets, SequenceLayout.of_lengths(lengths))


@pytest.mark.parametrize(
    ("pattern", "tokens"), [("GWMA", 7), ("GWMA", 64), ("GWMA", 150), ('"[GA]M"', 16)]
)
def test_stretches_give_what_a_whole_row_gives(pattern: str, tokens: int) -> None:
    asked, batch = subject(pattern), row([100, 3, 1, 41, 64])
    with torch.no_grad():
        logits = asked.model(batch.tokens, batch.layout)
        whole = asked.model(batch.tokens, batch.layout, batch.targets).nll
    assert torch.allclose(nats(asked, batch, tokens), whole, rtol=1e-11, atol=1e-12)
    assert torch.equal(likeliest(asked, batch, tokens), logits.argmax(-1))


class Largest(TorchDispatchMode):
    """The most elements of a result that has more than one axis."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor) and each.dim() > 1:
                self.elements = max(self.elements, each.numel())
        return out


def test_memory_of_recurrences_and_windows_does_not_grow_with_the_row() -> None:
    asked, found = subject("GWM", dtype=torch.float32), []
    for length in (256, 1024):
        with Largest() as largest:
            nats(asked, row([length]), 64)
        found.append(largest.elements)
    assert found[0] == found[1]
    with Largest() as largest:
        nats(asked, row([1024]), 1024)
    assert largest.elements > 4 * found[1]


def test_states_are_those_of_the_recurrences_token_by_token() -> None:
    asked, length = subject("GAM", dtype=torch.float64), 64
    draw = torch.Generator().manual_seed(2)
    rows = torch.randint(61, (3, length), generator=draw).numpy()
    squares: dict[str, np.ndarray[Any, Any]] = {}
    for each in rows:
        for name, inputs in _inputs(asked.model, torch.from_numpy(each)).items():
            rule = reference.gated_delta if name.endswith("G") else reference.ssd
            squares.setdefault(name, np.zeros(7))
            for digits in range(7):
                end = 1 << digits
                layout = SequenceLayout.of_lengths([end])
                _, state = rule(*(x[:end] for x in inputs), layout=layout)
                squares[name][digits] += state.square().mean().item() / len(rows)
    found = states(asked, rows, tokens=13)
    assert found["by_block"] == pytest.approx({k: v[-1] ** 0.5 for k, v in squares.items()})
    sizes = {"G": 2 * 16 * 16, "M": 4 * 16 * 16}
    total = sum(sizes[name[-1]] for name in squares)
    pooled = sum(sizes[name[-1]] * each for name, each in squares.items()) / total
    assert list(found["by_position"]) == ["0", "1", "2-3", "4-7", "8-15", "16-31", "32-63"]
    assert list(found["by_position"].values()) == pytest.approx(list(np.sqrt(pooled)))


def _inputs(model: Decoder, tokens: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """What the kernel of each recurrence reads in a whole row, by block and letter."""
    found: dict[str, tuple[Tensor, ...]] = {}
    for number, block in enumerate(model.blocks):
        for letter, mixer in zip(block.spec.mixers, block.mixers, strict=True):  # type: ignore[arg-type, union-attr]
            if letter in "GM":
                kernel, name = mixer.kernel, f"{number}.{letter}"

                def watched(*inputs: Tensor, layout: Any, k: Any = kernel, n: str = name) -> Any:
                    found[n] = inputs
                    return k(*inputs, layout=layout)

                mixer.kernel = watched
    with torch.no_grad():
        model(tokens, SequenceLayout.of_lengths([len(tokens)]))
    return found


@pytest.mark.parametrize("length", [1, 103, 256])
def test_shared_rows_of_scores_are_cut_as_zigzag_cuts_them(length: int) -> None:
    """Every span in two halves, also for odd lengths; a row of one process is cut nowhere."""
    assert row_for(length, 3, 1, Place()) == length
    for ranks in (2, 3):
        row = row_for(length, 1000, 4096, Place.of(0, ranks, ranks))
        assert (row % length, row % (2 * ranks)) == (0, 0)
