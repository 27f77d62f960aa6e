"""How long a step takes, by formula: computation by rooflines, messages by latency and speed.

What overlaps: gathering a block with the computation of the one before it (fsdp, ZeRO 3), sums of
gradients with the backward pass (fsdp, ddp, ZeRO 3), messages of a strategy with its own kernel as
`parallel.times` says. What does not: the first gather and the last sum of a pass, all that ZeRO 1
and 2 send, and the update. Data, checkpoints, validation, the host's own work and the copies of
``engine.offload`` are left out, and blocks count as they are: ``engine.compile`` moves less memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmtrain.inspect.memory import PARAMETER_STAGE, Shares
from lmtrain.layout import SequenceLayout
from lmtrain.models.accounting import TRAINING, visible_pairs
from lmtrain.models.activations import FP32, held
from lmtrain.parallel import state_times
from lmtrain.parallel.shape import AttentionShape, Block
from lmtrain.parallel.times import ATTENTION_BACKWARD, SCAN_BACKWARD, Machine
from lmtrain.settings.engine import EngineKind, Remat
from lmtrain.shapes import shape

if TYPE_CHECKING:
    from lmtrain.inspect.case import Case
    from lmtrain.models.accounting import Cost
    from lmtrain.models.pattern import BlockSpec

PRODUCTS_BACKWARD = 2
"""Gradients of inputs and of weights."""
VISITS = 2, 3
"""How often a kept number is moved: written and read; backward read, its gradient as before."""
UPDATE = 8 * FP32
"""Bytes moved for a trained number: AdamW reads four and writes three, the norm reads one."""
LOGITS = 6 * FP32
"""Bytes moved for a logit, from its product to its gradient."""


@dataclass(frozen=True)
class Pass:
    """Seconds of one part of the model, forward and backward."""

    forward: float = 0.0
    backward: float = 0.0

    @property
    def total(self) -> float:
        """Both."""
        return self.forward + self.backward


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step on the rank that waits longest."""

    layers: dict[str, float]
    """Computation, by kind of layer."""
    rows: float
    """What strategies that share rows add."""
    engine: float
    """What is left of gathering parameters and summing gradients."""
    update: float
    """The optimizer's."""
    teacher: float = 0.0
    """Of the first steps: its forward pass."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.layers.values()) + self.rows + self.engine + self.update + self.teacher


def step_time(case: Case) -> StepTime:
    """Of one update: all its parts, then the optimizer."""
    parts, engine = case.config.train.accumulate, case.config.engine
    by_kind: dict[str, float] = {}
    blocks: list[Pass] = []
    for (spec, cost), remat in zip(case.cost.blocks, case.remats, strict=True):
        kinds = _block(spec, cost, remat, case)
        for kind, seconds in kinds.items():
            by_kind[kind] = by_kind.get(kind, 0.0) + parts * seconds.total
        blocks.append(
            Pass(sum(p.forward for p in kinds.values()), sum(p.backward for p in kinds.values()))
        )
    by_kind["loss"] = parts * _loss(case)
    rows = sum(case.layers[k] * choice.seconds for k, choice in case.strategies.items())
    shares = Shares.of(case)
    update = UPDATE * case.cost.total.parameters / shares.optimizer / case.hardware.rates.memory
    if engine.kind is EngineKind.deepspeed and case.world > 1 and engine.zero != PARAMETER_STAGE:
        update += _ring(case, FP32 * case.cost.total.parameters, case.world)  # updated ones
    teacher = parts * _forward(case.taught) if case.taught else 0.0
    return StepTime(by_kind, parts * rows, _exposed(case, blocks, shares), update, teacher)


def _forward(case: Case) -> float:
    """One pass to the logits, as a teacher's: a block is gathered while the one before it runs."""
    blocks = [
        sum(part.forward for part in _block(spec, cost, Remat.none, case).values())
        for spec, cost in case.cost.blocks
    ]
    rows = sum(case.layers[k] * choice.seconds for k, choice in case.strategies.items())
    vocabulary, table = case.config.model.vocab_size or 1, case.cost.embedding.parameters
    logits = 2 * table * case.span / case.hardware.products
    logits += LOGITS * vocabulary * case.span / case.hardware.rates.memory
    shards, sizes = Shares.of(case).parameters, [cost.parameters for _, cost in case.cost.blocks]
    first, *others = (_ring(case, case.gathered * size, shards) for size in sizes)
    first += _ring(case, FP32 * (case.cost.total.parameters - sum(sizes)), shards)
    late = (max(0.0, gather - block) for gather, block in zip(others, blocks, strict=False))
    return sum(blocks) + rows / TRAINING + logits + first + sum(late)


def _block(spec: BlockSpec, cost: Cost, remat: Remat, case: Case) -> dict[str, Pass]:
    """Matrix products, kernels by letter, and the rest by the memory it moves."""
    rates, model, tokens = case.hardware.rates, case.config.model, case.span
    of = held(spec, model, element=case.element, fused=case.fused)
    products = 2 * cost.parameters * tokens / case.hardware.products
    there, back = (visits * tokens * of.kept / rates.memory for visits in VISITS)
    again = {Remat.none: 0.0, Remat.selective: there}.get(remat, there + products)
    found = {
        "matrix products": Pass(products, PRODUCTS_BACKWARD * products),
        "norms, gates, activations": Pass(there, back),
    }
    for letter in spec.mixers:
        kernel = _kernel(letter, case)
        if remat is Remat.full:
            again += kernel.forward
        found[f"kernel of {letter}"] = kernel
    if again:
        found["computed twice"] = Pass(0.0, again)
    return found


def _kernel(letter: str, case: Case) -> Pass:
    """Attention over visible pairs, or a scan; an equal share of the row."""
    of, rates, sequence = (
        shape(letter, case.config.model),
        case.hardware.rates,
        case.config.parallel,
    )
    if isinstance(of, AttentionShape):
        pairs = visible_pairs([case.length], of.window) * (case.row // case.length)
        flops = 4 * of.q_heads * of.head_dim * pairs / sequence.sequence
        forward = flops / rates.attention
        return Pass(forward, ATTENTION_BACKWARD * forward)
    whole = Block(SequenceLayout.whole((0, case.span)), 1)
    forward = state_times.scan(of, whole, Machine(case.hardware.links, rates))
    return Pass(forward, SCAN_BACKWARD * forward)


def _loss(case: Case) -> float:
    """The output layer: logits, and the gradients of its input and weight."""
    table, vocabulary = case.cost.embedding.parameters, case.config.model.vocab_size or 1
    products = (1 + PRODUCTS_BACKWARD) * 2 * table * case.span / case.hardware.products
    moved = LOGITS * vocabulary * case.span + 4 * FP32 * table
    return products + moved / case.hardware.rates.memory


def _exposed(case: Case, blocks: list[Pass], shares: Shares) -> float:
    """What of the engine's messages nothing hides."""
    engine, parts = case.config.engine, case.config.train.accumulate
    if case.world == 1:
        return 0.0
    sizes = [FP32 * block.parameters for _, block in case.cost.blocks]
    root = FP32 * case.cost.total.parameters - sum(sizes)
    if shares.parameters > 1:
        n = shares.parameters
        gathers = [_ring(case, size * case.gathered / FP32, n) for size in sizes]
        sums = [
            gather + _across(case, size, n) for gather, size in zip(gathers, sizes, strict=True)
        ]
        ends = 2 * _ring(case, root, n) + gathers[0] + sums[0]
        late = sum(
            max(0.0, gather - block.forward) + max(0.0, gather + add - block.backward)
            for gather, add, block in zip(gathers, sums, blocks, strict=True)
        )
        return parts * (ends + late)
    gradients = 2 * _ring(case, sum(sizes) + root, case.world)
    if engine.kind is EngineKind.deepspeed:
        return gradients * (0.5 if engine.zero == 2 else 1.0)  # noqa: PLR2004  a scatter alone
    hidden = sum(block.backward for block in blocks[1:])
    return max(2 * _ring(case, sizes[0] + root, case.world), gradients - hidden)


def _across(case: Case, size: int, shards: int) -> float:
    """The sum of a shard over ``engine.replicas``."""
    copies = case.world // shards
    if copies == 1:
        return 0.0
    link = case.hardware.links.within(case.world)
    return link.seconds(2 * size / shards * (copies - 1) / copies, 2 * (copies - 1))


def _ring(case: Case, size: float, ranks: int) -> float:
    """An all-gather of ``size`` bytes in all, or a reduce-scatter, in a ring."""
    if ranks == 1:
        return 0.0
    return case.hardware.links.within(ranks).seconds(size * (ranks - 1) / ranks, ranks - 1)
