"""How large gradients, parameters, activations and recurrent states are, part by part.

Looking changes nothing: gradients and parameters are only read, and activations come from a forward
pass of its own, without gradients and without compilation, so that blocks which are compiled or
computed again need no hooks while they train.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from lmtrain.compilation import opening
from lmtrain.models.mixers.gated_deltanet import GatedDeltaNet
from lmtrain.models.mixers.mamba2 import Mamba2
from lmtrain.ops.recurrence import AffineState
from lmtrain.ops.uncarried import Uncarried
from lmtrain.parallelize import reshard
from lmtrain.train.invariants import local
from lmtrain.train.report import NormsReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from lmtrain.batch import Batch
    from lmtrain.layout import SequenceLayout
    from lmtrain.models.decoder import Block, Decoder
    from lmtrain.ops.recurrence import Recurrence
    from lmtrain.train.engines import Engine


@torch.no_grad()
def measure(model: Decoder, engine: Engine, batches: Sequence[Batch], *, step: int) -> NormsReport:
    """The norms of a step, after its backward pass and before its update.

    Every process calls this.

    Args:
        model: with the gradients of the whole global batch.
        engine: adds up what the processes found.
        batches: this process's part of the global batch.
        step: for the report.
    """
    gradient, parameter = _weights(model, engine)
    residual, added, state = _activations(model, engine, batches)
    return NormsReport(
        step=step,
        gradient_norm=gradient,
        parameter_norm=parameter,
        residual_rms=residual,
        added_rms=added,
        state_rms=state,
    )


def _weights(model: Decoder, engine: Engine) -> tuple[dict[str, float], dict[str, float]]:
    """Norms of gradients and of parameters, by part."""
    device = engine.device
    squares = defaultdict[str, Any](lambda: torch.zeros(2, dtype=torch.float64, device=device))
    for name, weight in model.named_parameters():
        tensors = [torch.zeros_like(weight) if weight.grad is None else weight.grad, weight]
        found = [torch.linalg.vector_norm(local(x), dtype=torch.float64) for x in tensors]
        found = torch.stack(found).square().to(device)  # parameters may lie on the host
        squares[_part(name)] += found / engine.copies
    norms = engine.total(torch.stack(list(squares.values()))).sqrt().tolist()
    gradient, parameter = (
        dict(zip(squares, column, strict=True)) for column in zip(*norms, strict=True)
    )
    return gradient, parameter


def _part(name: str) -> str:
    """The part of the model that a parameter belongs to: ``blocks.3.mixers.0…`` to ``blocks.3``."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if first == "blocks" else first


def _activations(
    model: Decoder, engine: Engine, batches: Sequence[Batch]
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Root mean squares of the residual stream, of what blocks add to it, of recurrent states."""
    place, spans = engine.place, dict[str, AffineState]()
    sums = torch.zeros(len(model.blocks), 3, dtype=torch.float64, device=engine.device)
    with ExitStack() as held:
        held.enter_context(torch.compiler.set_stance("force_eager"))
        for number, block in enumerate(cast("Sequence[Block]", model.blocks)):
            hook = block.register_forward_hook(partial(_add_squares, sums[number]))
            held.callback(hook.remove)
            letters = block.spec.mixers
            for side, (letter, mixer) in enumerate(zip(letters, block.mixers, strict=True)):
                if isinstance(mixer, Mamba2 | GatedDeltaNet):
                    name = f"blocks.{number}.{letter}{side if letters.count(letter) > 1 else ''}"
                    alone = place.sequence_world == 1
                    held.enter_context(_kept_states(mixer, spans, name, alone=alone))
        for batch in batches:
            model(batch.tokens, batch.layout, batch.targets)
    reshard(model)
    residual, added, numbers = engine.total(sums).T
    assert bool((numbers > 0).all()), "a block was not seen: its hook was never called"
    named = [f"blocks.{number}" for number in range(len(model.blocks))]
    states = {name: _rms_after(span, engine) for name, span in spans.items()}
    return (
        dict(zip(named, (residual / numbers).sqrt().tolist(), strict=True)),
        dict(zip(named, (added / numbers).sqrt().tolist(), strict=True)),
        states,
    )


def _add_squares(sums: Tensor, _: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
    """Add the squares of a block's output, of its difference to the input, and how many."""
    for place, x in enumerate((out, out - args[0])):
        sums[place] += torch.linalg.vector_norm(x, dtype=torch.float64).square()
    sums[2] += out.numel()


@contextmanager
def _kept_states(
    mixer: Mamba2 | GatedDeltaNet, spans: dict[str, AffineState], name: str, *, alone: bool
) -> Iterator[None]:
    """Meanwhile ``spans[name]`` is what the last span did to the state that entered it.

    Args:
        mixer: whose kernel is watched.
        spans: filled.
        name: of the mixer.
        alone: this process holds whole rows, so that the state after a row is that of the scan.
    """
    before, rule = mixer.kernel, cast("Recurrence[Any, Any, Any]", mixer.rule)
    torch_rule = rule.rule if isinstance(rule, Uncarried) else rule

    def kernel(*inputs: Tensor, layout: SequenceLayout) -> Tensor:
        if alone:
            out, state = rule.scan(inputs, layout)
            spans[name] = AffineState(state.new_zeros(state.shape[0]), state)
            return out
        spans[name] = torch_rule.summarize(inputs, layout)
        return before(*inputs, layout=layout)

    mixer.kernel = opening(kernel)
    try:
        yield
    finally:
        mixer.kernel = before


def _rms_after(span: AffineState, engine: Engine) -> float:
    """Root mean square of the state after the last row, of which ``span`` is this process's part.

    The spans of that row come together in a sum over all processes, in which only those that hold
    them have more than zeros.
    """
    place = engine.place
    parts = [torch.zeros(place.sequence_world, *x.shape).to(x) for x in span]
    if place.rank == place.world - 1:
        for part, x in zip(parts, span, strict=True):
            part[place.sequence_rank] = x
    transitions, states = (engine.total(part) for part in parts)
    state = torch.zeros_like(states[0])
    for each in map(AffineState, transitions, states):
        state = each.act(state)
    return torch.linalg.vector_norm(state, dtype=torch.float64).item() / state.numel() ** 0.5
