"""What the ranks of ``test_shared_rows`` do: whole stacks over shared rows, against one process."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

from lmtrain.batch import IGNORED
from lmtrain.layout import SequenceLayout
from lmtrain.models.config import ModelConfig
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.ops.recurrence import AffineState
from lmtrain.parallel import lasp2
from lmtrain.parallel.collectives import Traffic
from lmtrain.parallel.cost import Choice
from lmtrain.parallel.mesh import SequenceMesh
from lmtrain.parallel.strategy import FITS, Strategy
from lmtrain.parallelize import share_rows
from state_passing import rows

if TYPE_CHECKING:
    from lmtrain.parallelize import Choose

SPAN = 16
VOCABULARY = 31
STACKS = ["GWMA", "MMMA", "[AM]", "GGGA"]
MIXTURES = [
    {"A": "ring", "W": "halo", "M": "lasp2", "G": "zeco"},
    {"A": "ulysses", "W": "ulysses", "M": "zeco", "G": "lasp2"},
    {"A": "zigzag", "W": "ring", "M": "ulysses", "G": "ulysses"},
    {"A": "usp", "W": "gather", "M": "lasp2", "G": "lasp2"},
]
WINDOWS = [5, SPAN, 2 * SPAN + 3, 1000]


@dataclass(frozen=True)
class Case:
    """A stack, the strategy of each of its letters, and what is peculiar."""

    pattern: str
    strategies: tuple[tuple[str, str], ...]
    window: int = 5
    remat: bool = False
    heads: tuple[int, int] = (4, 2)
    """Query and key heads."""


def cases() -> list[Case]:
    """Every letter under every strategy; whole stacks under mixtures of them."""
    single = [Case(letter, ((letter, s),)) for letter in "AMG" for s in FITS[letter]]
    window = [Case("W", (("W", s),), window=w) for s, w in product(FITS["W"], WINDOWS)]
    heads = [
        Case("A", (("A", s),), heads=h)
        for s, h in product(("ulysses", "ring", "gather"), ((4, 4), (4, 1), (6, 3), (5, 5)))
    ]
    stacks = [
        Case(pattern, tuple(mixture.items()), remat=remat)
        for pattern, mixture, remat in product(STACKS, MIXTURES, (False, True))
        if not remat or pattern == "GWMA"
    ]
    return [*single, *window, *heads, *stacks]


def build(case: Case) -> Decoder:
    """A small stack in fp64 whose states live long: decays near 0, beta up to 2."""
    config = ModelConfig(d_model=16, n_layers=len(case.pattern.strip("[]")), vocab_size=VOCABULARY)
    config.pattern = case.pattern
    if case.pattern.startswith("["):
        config.n_layers = 1
    for attention in (config.attention, config.sliding_window):
        attention.heads, attention.kv_heads = case.heads
        attention.head_dim = 4
    config.sliding_window.window = case.window
    config.mamba2.head_dim, config.mamba2.state_dim, config.mamba2.groups = 8, 6, 2
    g = config.gated_deltanet
    g.key_heads, g.value_heads, g.key_dim, g.value_dim, g.beta_scale = 2, 4, 16, 6, 2.0
    assert config.check() == []
    with torch.device("meta"):
        model = Decoder(config)
    model.to_empty(device="cpu")
    initialize(model, seed=0)
    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            parameter.data.fill_(-4.0)
    for block in model.blocks:
        block.remat = case.remat  # type: ignore[assignment]
    return model.double()


def choose(strategy: str, ranks: int) -> Choose:
    """Always this strategy; Ulysses x ring needs four ranks, and is Ulysses on two."""

    @cache
    def chosen(layout: SequenceLayout) -> Choice:
        here = layout.bounds[-1] // len(layout)
        picked = Strategy.ulysses if strategy == "usp" and here == 2 else Strategy(strategy)
        return Choice.forced(picked, ulysses=2, blocks=3)

    return chosen


def parallel(case: Case, mesh: SequenceMesh) -> Decoder:
    model = build(case)
    share_rows(model, {letter: choose(s, mesh.size) for letter, s in case.strategies}, mesh)
    return model


def run(model: Decoder, tokens: Tensor, targets: Tensor, layout: SequenceLayout) -> list[Tensor]:
    """Logits, the gradient of the embedded tokens, and of every parameter."""
    embedded: list[Tensor] = []

    def keep(_: Any, __: Any, x: Tensor) -> None:
        x.retain_grad()
        embedded.append(x)

    handle = model.embedding.register_forward_hook(keep)
    total = model(tokens, layout, targets).total / (targets_of(layout))
    total.backward()
    handle.remove()
    with torch.no_grad():
        logits = model(tokens, layout)
    dx = embedded[0].grad
    assert dx is not None
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    return [logits, dx, *grads]


def targets_of(layout: SequenceLayout) -> int:
    return layout.bounds[-1]


def text(total: int, ignored: slice) -> tuple[Tensor, Tensor]:
    draw = torch.randint(VOCABULARY, (2, total), generator=torch.Generator().manual_seed(total))
    tokens, targets = draw
    targets[ignored] = IGNORED
    return tokens, targets


def errors(mutation: str | None = None) -> dict[tuple[Case, str], float]:
    """The largest error of this rank, of logits and gradients, by case and row."""
    world, rank = dist.get_world_size(), dist.get_rank()
    mesh = SequenceMesh.open(world, torch.device("cpu"), Traffic(), strided=True)
    found: dict[tuple[Case, str], float] = {}
    for case in cases():
        usable = [
            (name, lengths)
            for name, lengths in rows(SPAN, world).items()
            if mutation is None or name in ("one document", "ragged")
        ]
        for name, lengths in usable:
            found[case, name] = error(case, SequenceLayout.of_lengths(lengths), mesh, rank)
    return found


def error(case: Case, whole: SequenceLayout, mesh: SequenceMesh, rank: int) -> float:
    """One case on one row: the last rank has only ignored targets."""
    layout = whole.shard(rank, mesh.size)
    span = slice(layout.start, layout.stop)
    tokens, targets = text(whole.bounds[-1], slice(whole.bounds[-1] - SPAN, None))
    expected = run(build(case), tokens, targets, whole)
    expected = [x[span] for x in expected[:2]] + expected[2:]
    actual = run(parallel(case, mesh), tokens[span], targets[span], layout)
    for grad in actual[2:]:
        dist.all_reduce(grad)
    scales = [x.abs().max().clamp(min=1e-3) for x in expected]
    return max(
        float((a - b).abs().max() / s) for a, b, s in zip(actual, expected, scales, strict=True)
    )
