"""Compiled blocks: what they give, and that no length, packing or number of documents costs one
more graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from test_decoder import build, config, tokens

from lmtrain.compilation import compile_blocks
from lmtrain.layout import SequenceLayout
from lmtrain.parallelize import rematerialize
from lmtrain.settings.engine import Remat

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
