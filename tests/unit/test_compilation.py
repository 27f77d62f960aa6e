"""Compiled blocks: what they give, and that no length, packing or number of documents costs one
more graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from test_decoder import build, config, tokens

from lmtrain.compilation import Compiler, compile_blocks, watched
from lmtrain.layout import SequenceLayout
from lmtrain.parallelize import rematerialize
from lmtrain.settings.engine import Device, EngineConfig, EngineKind, Remat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from lmtrain.models.config import ModelConfig
    from lmtrain.models.decoder import Decoder

# torch hides this warning of its own while it traces, which does not help where it is an error
pytestmark = pytest.mark.filterwarnings(
    r"ignore:The \.grad attribute of a Tensor that is not a leaf"
)
LENGTHS = [[160], [80, 80], [16] * 10, [1, 37, 1, 1, 80, 40], [159, 1], [1] * 160]


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def small(pattern: str, **changes: object) -> ModelConfig:
    settings = config(pattern, n_layers=2 * len(pattern), **changes)
    settings.attention.rope = True
    return settings


def step(model: Decoder, lengths: list[int]) -> list[Tensor]:
    """The loss and all gradients, in fp32."""
    text, layout = tokens(sum(lengths)), SequenceLayout.of_lengths(lengths)
    loss = model(text, layout, text.roll(-1)).total
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest of any tensor, relative to its norm, or a part of that of all where it is 0."""
    floor = 1e-2 * torch.stack([x.norm() for x in expected]).norm()
    return max(
        float((a - b).norm() / (b.norm() + floor)) for a, b in zip(found, expected, strict=True)
    )


def test_documents_never_cost_a_graph() -> None:
    """Nor does computing blocks again."""
    settings = small("GWMA")
    eager, compiled = (build(settings).float() for _ in range(2))
    compiler = compile_blocks(compiled, "aot_eager")
    graphs = []
    for lengths in LENGTHS:
        assert error(step(compiled, lengths), step(eager, lengths)) < 1e-5
        graphs.append(compiler.graphs)
    assert graphs[0] > 0
    rematerialize(compiled, Remat.full)
    assert error(step(compiled, LENGTHS[3]), step(eager, LENGTHS[3])) < 1e-5
    assert {*graphs, compiler.graphs} == {graphs[0]}


def test_a_step_that_compiles_again_is_told() -> None:
    told, compiler = list[str](), Compiler()
    for step, new in ((5, 3), (6, 0), (7, 2)):
        with watched(compiler, told.append, step=step, first=step == 5, length=64):
            compiler.graphs += new
    with watched(None, told.append, step=8, first=False, length=64):
        pass
    assert told == [
        "compiled 3 graphs; later steps should need no others",
        "step 7 (length 64) compiled 2 more graphs, which takes time: say engine.compile=false if "
        "it goes on; TORCH_LOGS=recompiles shows why",
    ]


def test_validation_compiles_once_and_generation_never() -> None:
    """Also for rows of another size, as those of validation may be."""
    settings = small("G")
    eager, compiled = (build(settings).float() for _ in range(2))
    compiler = compile_blocks(compiled, "aot_eager")
    graphs = [compiler.graphs]
    for lengths in ([64], [30, 2], [32], [96], [9, 87], [50]):
        text, layout = tokens(sum(lengths)), SequenceLayout.of_lengths(lengths)
        with torch.no_grad():
            assert error([compiled(text, layout)], [eager(text, layout)]) < 1e-5
        graphs.append(compiler.graphs)
    assert graphs[-1] == graphs[2]  # the second size makes sizes symbols
    read = [model.extend(tokens(7), model.initial_states())[0] for model in (compiled, eager)]
    assert torch.equal(*read)
    assert compiler.graphs == graphs[-1]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"remat": Remat.selective}, "say engine.remat=none or full"),
        ({"kind": EngineKind.deepspeed, "zero": 2}, "say engine.kind=fsdp"),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    keys: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmtrain.settings.engine.which", lambda _: "/usr/bin/g++")
    [problem] = EngineConfig(compile=True, device=Device.cpu, **keys).check()
    assert told in problem


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    [problem] = EngineConfig(compile=True, device=Device.cpu).check()
    assert problem.startswith("engine.compile=true needs a C++ compiler")
