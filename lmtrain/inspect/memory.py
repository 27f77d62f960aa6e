"""What one rank holds in the busiest moment of a step, by formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lmtrain.models.activations import FP32, held, norm
from lmtrain.ops.output import SLICE_ELEMENTS
from lmtrain.settings.engine import EngineKind, Offload, Precision, Remat
from lmtrain.settings.optim import OptimKind
from lmtrain.train.teacher import new_mixers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.inspect.case import Case
    from lmtrain.models.activations import Held

MOMENTS = 2 * FP32
"""Bytes of AdamW for a trained number: the mean of its gradients, and of their squares."""
DEEPSPEED_BUCKET = 500_000_000 * FP32
"""Bytes in which DeepSpeed gathers gradients before it sends them (its ``reduce_bucket_size``)."""
TOKEN = 8
"""Bytes of a token's number."""
PARAMETER_STAGE = 3
"""The stage of ZeRO that shares parameters too."""


class Shares(NamedTuple):
    """Into how many parts an engine cuts what belongs to the model."""

    parameters: int = 1
    gradients: int = 1
    optimizer: int = 1

    @classmethod
    def of(cls, case: Case) -> Shares:
        """Of ``case.world`` processes."""
        engine, world = case.config.engine, case.world
        if world == 1:
            return cls()
        match engine.kind:
            case EngineKind.fsdp:
                parts = world // engine.replicas
                return cls(parts, parts, parts)
            case EngineKind.ddp:
                return cls()
            case EngineKind.deepspeed:
                stage = engine.zero or 1
                return cls(world if stage > 2 else 1, world if stage > 1 else 1, world)  # noqa: PLR2004


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank in one moment of a step."""

    moment: str
    parameters: int
    gradients: int
    optimizer: int
    teacher: int
    """Its parameters."""
    activations: int
    """Kept for the backward pass, and what is known of the batch."""
    work: int
    """Of what runs in that moment."""
    buffers: int
    """Of communication: what is gathered, and what is about to be sent."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.rows.values())

    @property
    def rows(self) -> dict[str, int]:
        """Every kind by its name."""
        return {
            "parameters": self.parameters,
            "gradients": self.gradients,
            "optimizer state": self.optimizer,
            "teacher": self.teacher,
            "activations": self.activations,
            "work": self.work,
            "communication": self.buffers,
        }


def busiest(case: Case) -> Memory:
    """The moment of a step in which most is held, once the optimizer has its state."""
    return max(moments(case), key=lambda memory: memory.total)


def moments(case: Case) -> list[Memory]:
    """Those that can be the busiest: the loss, the backward pass of each block, the update."""
    config, cost, tokens = case.config, case.cost, case.span
    shares, offload = Shares.of(case), config.engine.offload
    whole, table = FP32 * cost.total.parameters, FP32 * cost.embedding.parameters
    on_host = offload is Offload.parameters
    parameters = 0 if on_host else whole // shares.parameters
    optimizer = 0 if offload is not Offload.none else _optimizer(case)
    optimizer //= shares.optimizer
    deep = config.engine.kind is EngineKind.deepspeed and case.world > 1
    if deep and offload is Offload.none:
        parameters += whole // shares.optimizer  # which it updates, beside those it computes with
    taught = 0 if on_host or case.taught is None else case.taught.cost.total.parameters
    teacher = FP32 * taught // shares.parameters
    all_gradients = 0 if on_host else whole // shares.gradients
    before = all_gradients if config.train.accumulate > 1 else 0
    buffers = _buffers(case, shares) + case.strategy_buffers

    def moment(name: str, gradients: float, activations: float, work: float) -> Memory:
        kept = int(activations) + tokens * _batch(case)
        sums = max(before, int(gradients)), optimizer, teacher, kept, int(work), buffers
        return Memory(name, parameters, *sums)

    blocks = [
        held(spec, config.model, element=case.element, fused=case.fused) for spec in case.specs
    ]
    stream = tokens * config.model.d_model * case.element
    inputs = 0 if config.engine.offload_activations else stream
    sizes = [
        tokens * block.kept
        if remat is Remat.none
        else tokens * block.products
        if remat is Remat.selective
        else inputs
        for block, remat in zip(blocks, case.remats, strict=True)
    ]
    kept = [size + _copies(case, i) for i, size in enumerate(sizes)]
    head = tokens * norm(config.model.d_model, fused=case.fused).kept.bytes(case.element) + table
    found = [
        moment("loss", 0, sum(kept) + head, _loss(case, shares)),
        moment("start of the backward pass", 0, sum(kept) + head, table + stream),
    ]
    done = 0.0
    for i in reversed(range(len(blocks))):
        again = tokens * blocks[i].kept - sizes[i] + _copies(case, i, now=True)
        work = again + tokens * blocks[i].work + stream + table
        found.append(moment(f"backward pass of block {i}", done, sum(kept[: i + 1]), work))
        done += FP32 * cost.blocks[i][1].parameters / shares.gradients
    if case.taught and config.distill.layers_steps:
        found.append(moment("lesson of the new mixers", 0, *_mixers(case, blocks, sizes)))
    found.append(moment("gradient of the embedding", all_gradients, 0, table + stream))
    largest = 2 * FP32 * max(table // FP32, case.largest) // shares.optimizer
    found.append(moment("update", all_gradients, 0, 0 if case.cuda else largest))
    return found


def _optimizer(case: Case) -> int:
    """Two moments of a number; Muon keeps one of those inside blocks."""
    inside = sum(block.parameters for _, block in case.cost.blocks)
    muon = case.config.optim.kind is OptimKind.muon
    return MOMENTS * case.cost.total.parameters - (FP32 * inside if muon else 0)


def _copies(case: Case, i: int, *, now: bool = False) -> int:
    """Weights in 16 bits that products keep; ``now``: those of the block computed again."""
    engine = case.config.engine
    gathered = engine.gather is Precision.bf16 and case.world > 1  # and let go after the block
    if engine.precision is Precision.fp32 or gathered or (case.remats[i] is Remat.full) is not now:
        return 0
    return case.element * case.cost.blocks[i][1].parameters


def _loss(case: Case, shares: Shares) -> int:
    """Logits of a slice and what becomes of them, in fp32; the output weight in 16 bits.

    Where there are several slices, the one before is still held while the next is computed. With a
    teacher whose predictions are learned, there are its logits, its hidden states and its output
    weight too, whole.
    """
    model, follows = case.config.model, case.taught and case.config.distill.logits_steps > 0
    vocabulary, table = model.vocab_size or 1, case.cost.embedding.parameters
    models, tensors = (2, 5) if follows else (1, 2)
    rows = min(case.span, max(1, SLICE_ELEMENTS // (models * vocabulary)))
    narrow = case.element if case.element < FP32 else 0
    tensors += rows < case.span
    logits = rows * vocabulary * (tensors * FP32 + narrow) + models * narrow * table
    if not follows:
        return logits
    whole = FP32 * table if shares.parameters > 1 else 0
    return logits + case.span * model.d_model * case.element + whole


def _mixers(case: Case, blocks: Sequence[Held], sizes: Sequence[int]) -> tuple[int, int]:
    """What is kept while new mixers learn, and in what works the last of them.

    Their input is what the teacher's read; their errors are in fp32. Of what they keep, and compute
    again, this is a bound: it has the MLP of their blocks in it, which does not run.
    """
    assert case.teacher is not None
    new, width = new_mixers(case.config.model, case.teacher), case.span * case.config.model.d_model
    own = {i: 0 if case.remats[i] is Remat.full else sizes[i] for i in new}
    inside = (case.span * (blocks[i].kept + blocks[i].work) - own[i] for i in new)
    kept = len(new) * width * (case.element + FP32) + sum(own.values())
    return kept, max(len(new) * width * case.element, *inside)


def _batch(case: Case) -> int:
    """Bytes of a token: itself, its target, and the angles of rotary positions."""
    model = case.config.model
    angles = {
        (config.rotary_width(model.d_model), config.rope_theta, str(config.rope_scaling))
        for letter, config in (("A", model.attention), ("W", model.sliding_window))
        if letter in case.layers and config.rope
    }
    return 2 * TOKEN + FP32 * sum(width for width, *_ in angles)


def _buffers(case: Case, shares: Shares) -> int:
    """What engines gather and send."""
    engine, cost = case.config.engine, case.cost
    biggest = max(block.parameters for _, block in cost.blocks)
    largest, gathered = FP32 * biggest, case.gathered * biggest
    root = FP32 * cost.total.parameters - FP32 * sum(b.parameters for _, b in cost.blocks)
    if case.world == 1:
        return 0
    match engine.kind:
        case EngineKind.ddp:
            return 0  # gradients are views of the buckets that are sent
        case EngineKind.fsdp if shares.parameters == 1:
            return 0
        case EngineKind.fsdp:  # whole blocks, and a whole gradient beside the one that is sent
            return root + (1 + max(1, engine.prefetch)) * gathered + 2 * largest
        case EngineKind.deepspeed:
            gathered = root + 2 * largest if engine.zero == PARAMETER_STAGE else 0
            return gathered + DEEPSPEED_BUCKET
