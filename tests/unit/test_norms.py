"""What norms are of, in one process; several processes are compared in tests/e2e."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from test_decoder import build, config, tokens

from lmtrain.batch import Batch
from lmtrain.compilation import compile_blocks
from lmtrain.layout import SequenceLayout
from lmtrain.settings.engine import Device, EngineConfig
from lmtrain.train.engines.local import LocalEngine
from lmtrain.train.norms import measure

if TYPE_CHECKING:
    from lmtrain.models.decoder import Decoder
    from lmtrain.train.report import NormsReport

LENGTHS = [1, 37, 80, 65]
PATTERN = "GwM[GG]-"


def batches() -> list[Batch]:
    layout = SequenceLayout.of_lengths(LENGTHS)
    rows = [tokens(sum(LENGTHS) + extra)[extra:] for extra in (0, 1)]
    return [Batch(row, row.roll(-1), layout) for row in rows]


def trained(*, compiled: bool = False) -> tuple[Decoder, Any]:
    """A model with the gradients of two batches, and its compiler."""
    model = build(config(PATTERN, n_layers=5))
    compiler = compile_blocks(model, backend="eager") if compiled else None
    for batch in batches():
        model(batch.tokens, batch.layout, batch.targets).total.backward()
    return model, compiler


def look(model: Decoder) -> NormsReport:
    return measure(model, LocalEngine(EngineConfig(device=Device.cpu)), batches(), step=7)


def rms(x: torch.Tensor) -> float:
    return x.square().mean().sqrt().item()


def test_they_are_those_of_tensors() -> None:
    model, _ = trained()
    found = look(model)
    block = model.blocks[2]
    parameters = torch.cat([p.flatten() for p in block.parameters()])
    gradients = torch.cat([p.grad.flatten() for p in block.parameters() if p.grad is not None])
    assert found.parameter_norm["blocks.2"] == pytest.approx(parameters.norm().item(), rel=1e-12)
    assert found.gradient_norm["blocks.2"] == pytest.approx(gradients.norm().item(), rel=1e-12)


def test_they_are_those_of_the_residual_stream() -> None:
    model, _ = trained()
    found, outputs = look(model), list[list[torch.Tensor]]()
    for batch in batches():
        x, stream = model.embedding(batch.tokens), list[torch.Tensor]()
        for block in model.blocks:
            stream.append(x)
            x = block(x, batch.layout)
        outputs.append([*stream, x])
    columns = [torch.cat(rows) for rows in zip(*outputs, strict=True)]
    for number in range(5):
        before, after = columns[number : number + 2]
        name = f"blocks.{number}"
        assert found.residual_rms[name] == pytest.approx(rms(after), rel=1e-12)
        assert found.added_rms[name] == pytest.approx(rms(after - before), rel=1e-12)


def test_states_are_those_that_generation_would_go_on_from() -> None:
    model, _ = trained()
    found = look(model).state_rms
    _, state = model.extend(batches()[-1].tokens[-LENGTHS[-1] :], model.initial_states())
    expected = {
        "blocks.0.G": state.mixers[0][0],
        "blocks.2.M": state.mixers[2][0],
        "blocks.3.G0": state.mixers[3][0],
        "blocks.3.G1": state.mixers[3][1],
    }
    assert found == {
        name: pytest.approx(rms(each.matrix), rel=1e-10) for name, each in expected.items()
    }


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch._dynamo looks at it
@pytest.mark.parametrize("compiled", [False, True])
def test_looking_leaves_no_trace(compiled: bool) -> None:  # noqa: FBT001
    model, compiler = trained(compiled=compiled)
    graphs = compiler.graphs if compiled else 0
    before = {name: (p.clone(), p.grad.clone()) for name, p in model.named_parameters()}  # type: ignore[union-attr]
    kernels = [mixer.kernel for block in model.blocks for mixer in block.mixers]  # type: ignore[union-attr]
    found = look(model)
    assert found == look(model)
    for name, parameter in model.named_parameters():
        weight, gradient = before[name]
        assert torch.equal(parameter, weight)
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)
    after = [mixer.kernel for block in model.blocks for mixer in block.mixers]  # type: ignore[union-attr]
    assert all(ours is theirs for ours, theirs in zip(after, kernels, strict=True))
    assert not any(module._forward_hooks for module in model.modules())
    if compiled:
        model(batches()[0].tokens, batches()[0].layout, batches()[0].targets).total.backward()
        assert compiler.graphs == graphs > 0  # nothing was compiled anew
        plain = look(trained()[0])
        for name in ("residual_rms", "added_rms", "state_rms", "parameter_norm", "gradient_norm"):
            assert getattr(found, name) == pytest.approx(getattr(plain, name), rel=1e-9)
