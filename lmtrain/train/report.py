"""What a run tells: one class for each kind of line of ``metrics.jsonl``.

Times are seconds, losses nats per target, memory and messages bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StartReport:
    """A run begins, or goes on after ``step`` updates."""

    step: int
    started: str
    """UTC, as ISO 8601."""
    parameters: int
    processes: int
    device: str
    """Name of the device that computes."""
    version: str
    """Of lmtrain."""
    torch: str


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One optimizer update.

    Phases are times of the host. A GPU computes later what the host queues: forward and backward
    then take as long as to launch them, and the update, which reads the gradient's norm, waits for
    all that was queued. Only their sum is the device's time.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    """Targets learned since step 0."""
    length: int
    """Tokens of a piece in this batch."""
    tokens_per_second: float
    mfu: float | None
    """Model FLOP/s over the device's peak; None when the peak is unknown."""
    data_wait: float
    """Phase: waiting for the batch."""
    forward_backward: float
    """Phase: losses and gradients of all parts of the batch."""
    update: float
    """Phase: norm, clipping, optimizer."""
    sp_bytes: int
    """What processes that share rows sent each other, all together."""
    memory: int
    """Peak of the device's memory, or of the process on a CPU."""
    sources: dict[str, float] = field(default_factory=dict[str, float])
    """Part of each source in the tokens since the plan began; left out where there is only one."""
    stage: str = ""
    """What the loss is, in a run with a teacher: see `lmtrain.train.distill`; else left out."""
    parts: dict[str, float] = field(default_factory=dict[str, float])
    """Means over the targets of what such a run computes, ``loss`` among them; else left out."""


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """The loss on documents that are never trained on."""

    step: int
    val_loss: float
    val_bits_per_byte: float | None
    """None when the tokenizer does not say how many bytes its tokens stand for."""
    val_loss_by_length: dict[str, float]
    val_loss_by_source: dict[str, float] = field(default_factory=dict[str, float])
    """By names of sources and of other validation data; left out where there is only one."""


@dataclass(frozen=True, kw_only=True)
class NormsReport:
    """How large things are in one step, by part: ``embedding``, ``blocks.0`` …, ``norm``, ``head``.

    Of whole tensors and the whole global batch, whatever the number of processes.
    """

    step: int
    gradient_norm: dict[str, float]
    """Before clipping."""
    parameter_norm: dict[str, float]
    """Before the update."""
    residual_rms: dict[str, float]
    """Root mean square of the residual stream after each block."""
    added_rms: dict[str, float]
    """The same of what each block adds to it."""
    state_rms: dict[str, float]
    """The same of each recurrent state ``[h, k, v]`` after the last document of the batch, by block
    and letter."""


@dataclass(frozen=True, kw_only=True)
class FaultReport:
    """The batch of ``step`` was left out; its `StepReport` has its loss and no gradient's norm."""

    step: int
    fault: str
    """What was wrong, in words."""
    back: int
    """The parameters are those after this step; ``step`` where nothing went back."""
    faults: int
    """Batches left out since step 0."""


Values = StartReport | StepReport | ValidationReport | NormsReport | FaultReport
"""Reports that are lines of ``metrics.jsonl``."""

Report = Values | str
"""What observers hear; a string is a line for a person."""


def values(report: Values) -> dict[str, Any]:
    """What a report says, by name; a number that is not finite is None, which JSON knows."""
    said = {name: value for name, value in asdict(report).items() if value not in ({}, "")}
    return _known(said)


def _known(value: Any) -> Any:
    """A value of a report, or a table of them, as JSON can hold it."""
    if isinstance(value, dict):
        return {name: _known(each) for name, each in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value
