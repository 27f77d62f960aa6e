"""What the ranks of ``test_shared_rows`` do: whole stacks over shared rows, against one process."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.nn.functional as F
from state_passing import rows
from torch import Tensor

from lmtrain import parallelize
from lmtrain.batch import IGNORED
from lmtrain.layout import SequenceLayout
from lmtrain.models.config import ModelConfig
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.models.rope import RopeKind, RopeScaling
from lmtrain.ops import recurrence
from lmtrain.ops.attention import attend
from lmtrain.ops.recurrence import AffineState, act
from lmtrain.ops.ssd import ScalarDecay
from lmtrain.parallel import halo, lasp2
from lmtrain.parallel.collectives import Traffic
from lmtrain.parallel.cost import Choice
from lmtrain.parallel.mesh import SequenceMesh
from lmtrain.parallel.strategy import FITS, Strategy
from lmtrain.parallelize import rematerialize, share_rows
from lmtrain.settings.engine import Remat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lmtrain.planner import Choose

SPAN = 16
ROW = 2048
"""Long enough that states between ranks weigh little beside activations."""
VOCABULARY = 31
STACKS = ["GWMA", "MMMA", "[AM]", "GGGA"]
MIXTURES = [
    {"A": "ring", "W": "halo", "M": "lasp2", "G": "zeco"},
    {"A": "ulysses", "W": "ulysses", "M": "zeco", "G": "lasp2"},
    {"A": "zigzag", "W": "ring", "M": "ulysses", "G": "ulysses"},
    {"A": "usp", "W": "gather", "M": "lasp2", "G": "lasp2"},
]
BESIDE = [MIXTURES[0] | {"W": "ulysses"}, MIXTURES[1] | {"W": "gather"}]
"""One kind of attention is kept as a whole where it is recomputed, the other call by call."""
HARDEST = ("ragged", "long among short", "one document", "starts on a border")
WINDOWS = [5, SPAN, 2 * SPAN + 3, 1000]


@dataclass(frozen=True)
class Case:
    """A stack, the strategy of each of its letters, and what is peculiar."""

    pattern: str
    strategies: tuple[tuple[str, str], ...]
    window: int = 5
    remat: Remat = Remat.none
    heads: tuple[int, int] = (4, 2)
    """Query and key heads, for at most four ranks; twice as many for eight."""
    scaled: bool = False
    """Whether rotary positions are those of YaRN, far beyond its original length."""
    rows: tuple[str, ...] = ()
    """Names of the rows it meets; empty means all."""

    def met(self, world: int) -> dict[str, list[int]]:
        """The rows it meets, by name."""
        every = rows(SPAN, world)
        return {name: every[name] for name in self.rows or every}


def cases() -> list[Case]:
    """Every letter under every strategy; whole stacks under mixtures of them."""
    single = [Case(letter, ((letter, s),)) for letter in "AMG" for s in FITS[letter]]
    window = [
        Case("W", (("W", s),), window=w, rows=HARDEST) for s, w in product(FITS["W"], WINDOWS)
    ]
    heads = [
        Case("A", (("A", s),), heads=h, rows=HARDEST[:2])
        for s, h in product(("ulysses", "ring", "gather"), ((4, 4), (4, 1), (6, 3), (5, 5)))
    ]
    stacks = [Case(word, tuple(m.items())) for word in STACKS for m in MIXTURES[:2]]
    mixed = [Case("GWMA", tuple(m.items())) for m in MIXTURES[2:]]
    again = zip(MIXTURES, (Remat.full, Remat.selective) * 2, strict=True)
    remat = [replace(Case("GWMA", tuple(m.items())), remat=remat) for m, remat in again]
    beside = [
        Case(word, tuple(m.items()), window=2 * SPAN + 3, remat=remat, rows=HARDEST)
        for word, m in product(("[AW]", "[WA]", "[AMWG]"), BESIDE)
        for remat in (Remat.none, Remat.selective)
    ]
    scaled = [Case("AW", tuple(m.items()), scaled=True, rows=HARDEST) for m in MIXTURES[::2]]
    return [*single, *window, *heads, *stacks, *mixed, *remat, *beside, *scaled]


def build(case: Case) -> Decoder:
    """A small stack in fp64 whose states live long: decays near 0, beta up to 2.

    It has a head for every rank.
    """
    more, layers = max(1, dist.get_world_size() // 4), len(case.pattern.strip("[]"))
    config = ModelConfig(d_model=16 * more, n_layers=layers, vocab_size=VOCABULARY)
    config.pattern = case.pattern
    if case.pattern.startswith("["):
        config.n_layers = 1
    for attention in (config.attention, config.sliding_window):
        attention.heads, attention.kv_heads = (more * heads for heads in case.heads)
        attention.head_dim = 4
        if case.scaled:
            attention.rope_scaling = RopeScaling(
                kind=RopeKind.yarn, factor=4.0, original_length=2 * SPAN
            )
    config.sliding_window.window = case.window
    config.mamba2.head_dim, config.mamba2.state_dim, config.mamba2.groups = 8, 6, 2
    g = config.gated_deltanet
    g.key_heads, g.value_heads = 2 * more, 4 * more
    g.key_dim, g.value_dim, g.beta_scale = 16, 6, 2.0
    assert config.check() == []
    with torch.device("meta"):
        model = Decoder(config)
    model.to_empty(device="cpu")
    initialize(model, seed=0)
    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            parameter.data.fill_(-4.0)
    rematerialize(model, case.remat)
    return model.double()


def choose(strategy: str, ranks: int) -> Choose:
    """Always this strategy; Ulysses x ring needs four ranks, and is Ulysses on two."""

    @cache
    def chosen(layout: SequenceLayout) -> Choice:
        degree = layout.degree(ranks)
        picked = Strategy.ulysses if strategy == "usp" and degree == 2 else Strategy(strategy)
        return Choice(picked, degree, ulysses=2, zigzag=strategy == "zigzag", blocks=3)

    return chosen


def parallel(case: Case, mesh: SequenceMesh) -> Decoder:
    model = build(case)
    share_rows(model, {letter: choose(s, mesh.size) for letter, s in case.strategies}, mesh)
    return model


def run(model: Decoder, tokens: Tensor, targets: Tensor, layout: SequenceLayout) -> list[Tensor]:
    """Logits, the gradient of the embedded tokens, and of every parameter."""
    model.zero_grad()
    embedded: list[Tensor] = []

    def keep(_: Any, __: Any, x: Tensor) -> None:
        x.retain_grad()
        embedded.append(x)

    handle = model.embedding.register_forward_hook(keep)
    logits = model(tokens, layout)
    loss = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    (loss / layout.bounds[-1]).backward()
    handle.remove()
    dx = embedded[0].grad
    assert dx is not None
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    return [logits.detach(), dx, *grads]


def text(total: int) -> tuple[Tensor, Tensor]:
    """Tokens and targets of a row; the last rank has only ignored ones."""
    draw = torch.Generator().manual_seed(total)
    tokens, targets = torch.randint(VOCABULARY, (2, total), generator=draw)
    targets[-SPAN:] = IGNORED
    return tokens, targets


@dataclass(frozen=True)
class Found:
    """What a rank found out about a case on a row."""

    error: float
    """The largest, of logits, of the gradients of the tokens here, and of the parameters."""
    sent: int
    """Bytes sent by a forward and a backward pass."""


def compare() -> dict[tuple[Case, str], Found]:
    """Every case on every row, against one process."""
    mesh = open_mesh(traffic := Traffic())
    met = {case: case.met(mesh.size) for case in cases()}
    every = (_alone(case, lengths) for case, rows in met.items() for lengths in rows.values())
    _share_references(dict.fromkeys(every))
    return {
        (case, name): found
        for case, rows in met.items()
        for name, found in _compare(case, rows, mesh, traffic).items()
    }


def open_mesh(traffic: Traffic) -> SequenceMesh:
    return SequenceMesh.open(dist.get_world_size(), torch.device("cpu"), traffic, strided=True)


Alone = tuple[Case, tuple[int, ...]]
"""A case without ranks, and the lengths of its documents."""
REFERENCES: dict[Alone, list[Tensor]] = {}
"""What one process finds."""


def _alone(case: Case, lengths: list[int]) -> Alone:
    return replace(case, strategies=(), remat=Remat.none, rows=()), tuple(lengths)


def _one_process(alone: Alone) -> list[Tensor]:
    if alone not in REFERENCES:
        case, lengths = alone
        whole = SequenceLayout.of_lengths(lengths)
        REFERENCES[alone] = run(_built(case), *text(whole.bounds[-1]), whole)
    return REFERENCES[alone]


_built = lru_cache(maxsize=1)(build)


def _share_references(every: Iterable[Alone]) -> None:
    """Each rank computes its part of them, for all."""
    rank, size = dist.get_rank(), dist.get_world_size()
    parts: list[Any] = [None] * size
    mine = {alone: _one_process(alone) for alone in list(every)[rank::size]}
    dist.all_gather_object(parts, mine)
    for part in parts:
        REFERENCES.update(part)


def _compare(
    case: Case, rows: dict[str, list[int]], mesh: SequenceMesh, traffic: Traffic
) -> dict[str, Found]:
    model = parallel(case, mesh)
    return {name: _meet(case, model, row, mesh, traffic) for name, row in rows.items()}


def _meet(
    case: Case, model: Decoder, lengths: list[int], mesh: SequenceMesh, traffic: Traffic
) -> Found:
    whole = SequenceLayout.of_lengths(lengths)
    layout = whole.shard(mesh.rank, mesh.size)
    span = slice(layout.start, layout.stop)
    expected = _one_process(_alone(case, lengths))
    expected = [x[span] for x in expected[:2]] + expected[2:]
    traffic.sent = 0
    tokens, targets = (x[span] for x in text(whole.bounds[-1]))
    actual = run(model, tokens, targets, layout)
    sent = traffic.sent
    summed = torch.cat([grad.flatten() for grad in actual[2:]])
    dist.all_reduce(summed)
    parts = summed.split([grad.numel() for grad in actual[2:]])
    actual[2:] = [part.view_as(grad) for part, grad in zip(parts, actual[2:], strict=True)]
    return Found(
        max(
            float((a - b).abs().max() / b.abs().max().clamp(min=1e-3))
            for a, b in zip(actual, expected, strict=True)
        ),
        sent,
    )


@dataclass(frozen=True)
class Probed:
    """What a rank found out beside equality."""

    saved: dict[str, tuple[int, int]]
    """Bytes kept for the backward, by mixture, of one process and of this rank."""
    unelided: float
    """The largest error when all ranks speak, whatever the documents."""


def probe() -> Probed:
    """Look at everything else."""
    mesh = open_mesh(traffic := Traffic())
    mixtures = {str(m): Case("GWMA", tuple(m.items())) for m in MIXTURES}
    row, (tokens, _) = SequenceLayout.of_lengths([ROW - 300, 300]), text(ROW)
    whole, layout = _saved(build(Case("GWMA", ())), tokens, row), row.shard(mesh.rank, mesh.size)
    here = tokens[layout.start : layout.stop]
    return Probed(
        {name: (whole, _saved(parallel(m, mesh), here, layout)) for name, m in mixtures.items()},
        _unelided(mesh, traffic),
    )


def mutated() -> dict[str, float]:
    """For each mutation, the largest error of all cases of the mixer that shows it."""
    mesh = open_mesh(traffic := Traffic())
    return {name: _mutated(name, mesh, traffic) for name in MUTATIONS}


def _unelided(mesh: SequenceMesh, traffic: Traffic) -> float:
    """Mixtures on rows whose documents need less than all ranks, or none."""
    with patch.object(parallelize, "_degree", lambda _, ranks: ranks):
        names = ("a document a rank", "equal documents", "empty rank")
        every = [Case("GWMA", tuple(m.items()), rows=names) for m in MIXTURES]
        return max(_worst(case, mesh, traffic) for case in every)


def _worst(case: Case, mesh: SequenceMesh, traffic: Traffic) -> float:
    found = _compare(case, case.met(mesh.size), mesh, traffic)
    return max(each.error for each in found.values())


def _saved(model: Decoder, tokens: Tensor, layout: SequenceLayout) -> int:
    """Bytes of all storages that a forward pass keeps for the backward, parameters aside."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(tokens, layout).sum().backward()
    return sum(kept.values())


def _mutated(name: str, mesh: SequenceMesh, traffic: Traffic) -> float:
    pattern, patches = MUTATIONS[name]
    with ExitStack() as stack:
        for target, attribute, wrong in patches:
            stack.enter_context(patch.object(target, attribute, wrong))
        return max(
            _worst(replace(case, rows=HARDEST), mesh, traffic)
            for case in cases()
            if case.pattern == pattern and case.window <= SPAN
        )


def _no_halo(*tensors: Tensor, **_: Any) -> tuple[Tensor, ...]:
    return tensors


def _fold_without_borders(
    transitions: Tensor, states: Tensor, layout: SequenceLayout
) -> Tensor | None:
    """As if no document started in the spans before."""
    state = torch.zeros_like(states[0])
    for j in range(layout.start // len(layout)):
        transition = torch.where(transitions[j] == 0, 0.5, transitions[j])
        state = AffineState(transition, states[j]).act(state)
    return state


def _transposed(transition: Tensor, state: Tensor) -> Tensor:
    return transition.mT @ state


def _ignored(transition: Tensor, state: Tensor) -> Tensor:
    return torch.zeros_like(state)


def _growing(self: ScalarDecay, *args: Any, **options: Any) -> AffineState:
    transition, state = _SUMMARY(self, *args, **options)
    return AffineState(torch.where(transition == 0, transition, 1 / transition), state)


_SUMMARY = ScalarDecay.summary


def _local(*qkv: Tensor, layout: SequenceLayout, **_: Any) -> Tensor:
    here = [b - layout.start for b in layout.bounds if layout.start < b < layout.stop]
    return attend(*qkv, layout=SequenceLayout.whole([0, *here, len(layout)]))


MUTATIONS: dict[str, tuple[str, list[tuple[Any, str, Any]]]] = {
    "the entering state is zero": ("G", [(lasp2, "_fold", lambda *_: None)]),
    "the transition is ignored": ("G", [(recurrence, "act", _ignored)]),
    "the transition is transposed": ("G", [(recurrence, "act", _transposed)]),
    "the transition is not transposed in the backward": ("G", [(lasp2, "coact", act)]),
    "a transition passes a document's start": ("G", [(lasp2, "_fold", _fold_without_borders)]),
    "a decay has the wrong sign": ("M", [(ScalarDecay, "summary", _growing)]),
    "a window has no halo": ("W", [(halo, "widen", _no_halo)]),
    "a convolution has no halo": ("M", [(halo, "widen", _no_halo)]),
    "attention is local": ("A", [(parallelize, "ring", _local), (parallelize, "gather", _local)]),
}
"""For each wrong line: the mixer that shows it, and what is put where."""
