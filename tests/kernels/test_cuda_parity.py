"""On a GPU: every operation equals its naive form on the host, and a model its twin there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmtrain.layout import SequenceLayout
from lmtrain.models.config import ModelConfig
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.ops import reference
from lmtrain.ops.attention import attend
from lmtrain.ops.attention_blocks import attend_tiles
from lmtrain.ops.conv import short_conv
from lmtrain.ops.gated_delta import GatedDelta
from lmtrain.ops.loss import linear_cross_entropy
from lmtrain.ops.norm import add_norm, rms_norm
from lmtrain.ops.ssd import ScalarDecay
from lmtrain.ops.tiles import visible
from lmtrain.parallelize import rematerialize
from lmtrain.settings.engine import Remat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 5e-2}
LAYOUTS = [
    SequenceLayout.of_lengths([1]),
    SequenceLayout.of_lengths([500]),
    SequenceLayout.of_lengths([64] * 5),
    SequenceLayout.of_lengths([1, 63, 130, 2, 128, 65]),
]

dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.lengths}")


def draw(*shape: int) -> Tensor:
    """Numbers that bf16 holds exactly, in fp64."""
    return torch.randn(shape).bfloat16().double()


def compare(
    fast: Callable[..., Tensor],
    naive: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
) -> None:
    """Outputs and the gradient of every input."""
    host = [x.requires_grad_() for x in inputs]
    card = [x.detach().to(DEVICE, dtype).requires_grad_() for x in inputs]
    expected, actual = naive(*host), fast(*card)
    cotangent = draw(*expected.shape)
    want = torch.autograd.grad(expected, host, cotangent)
    have = torch.autograd.grad(actual, card, cotangent.to(actual))
    for a, b in zip([actual, *have], [expected, *want], strict=True):
        scale = max(b.norm(), 0.1 * cotangent.norm())  # some gradients are zero
        assert (a.cpu().double() - b).norm() < TOLERANCE[dtype] * scale


@dtypes
@layouts
@pytest.mark.parametrize("window", [None, 17, 64])
def test_attention(layout: SequenceLayout, window: int | None, dtype: torch.dtype) -> None:
    t, there = len(layout), layout.to(DEVICE)
    compare(
        lambda q, k, v: attend(q, k, v, layout=there, window=window),
        lambda q, k, v: reference.attend(q, k, v, layout=layout, window=window),
        [draw(t, 4, 64), draw(t, 2, 64), draw(t, 2, 64)],
        dtype,
    )


@layouts
@pytest.mark.parametrize("window", [None, 17, 64])
@pytest.mark.parametrize("groups", [4, 2])
def test_attention_in_one_call(layout: SequenceLayout, window: int | None, groups: int) -> None:
    from lmtrain.ops.attention_varlen import attend_varlen

    t, there = len(layout), layout.to(DEVICE)
    compare(
        lambda q, k, v: attend_varlen(q, k, v, layout=there, window=window),
        lambda q, k, v: reference.attend(q, k, v, layout=layout, window=window),
        [draw(t, 4, 64), draw(t, groups, 64), draw(t, groups, 64)],
        torch.bfloat16,
    )


@dtypes
@layouts
@pytest.mark.parametrize("window", [None, 17, 64])
@pytest.mark.parametrize("width", [64, 20])
def test_attention_in_tiles(
    layout: SequenceLayout, window: int | None, width: int, dtype: torch.dtype
) -> None:
    """The kernels of a ring: several tiles a query, the last result's gradient for each."""
    t = len(layout)
    span = 0, t
    tiles = visible(layout.bounds, span, span, window)
    compare(
        lambda q, k, v: attend_tiles(q, k, v, tiles),
        lambda q, k, v: reference.attend(q, k, v, layout=layout, window=window),
        [draw(t, 4, width), draw(t, 2, width), draw(t, 2, width)],
        dtype,
    )


@dtypes
@pytest.mark.parametrize("window", [None, 17, 1000])
def test_attention_to_keys_before_the_span(window: int | None, dtype: torch.dtype) -> None:
    layout = SequenceLayout((0, 70, 500, 520), 300, 510)
    keys = layout.widened(layout.lookback(window or 1000))
    there = layout.to(DEVICE)
    compare(
        lambda q, k, v: attend(q, k, v, layout=there, keys=keys, window=window),
        lambda q, k, v: reference.attend(q, k, v, layout=layout, keys=keys, window=window),
        [draw(210, 4, 64), draw(len(keys), 2, 64), draw(len(keys), 2, 64)],
        dtype,
    )


@dtypes
@layouts
def test_mamba2_recurrence(layout: SequenceLayout, dtype: torch.dtype) -> None:
    t, there = len(layout), layout.to(DEVICE)
    compare(
        lambda *x: ScalarDecay().scan(x, there)[0],
        lambda *x: reference.ssd(*x, layout=layout)[0],
        [
            draw(t, 1, 32),
            draw(t, 1, 32),
            draw(t, 4, 16),
            -0.05 * draw(t, 4).abs().bfloat16().double(),
        ],
        dtype,
    )


@dtypes
@layouts
def test_gated_delta_recurrence(layout: SequenceLayout, dtype: torch.dtype) -> None:
    t, there = len(layout), layout.to(DEVICE)
    k = F.normalize(draw(t, 2, 32), dim=-1).bfloat16().double()
    decay, beta = -0.05 * draw(t, 4).abs(), draw(t, 4).sigmoid()
    compare(
        lambda *x: GatedDelta().scan(x, there)[0],
        lambda *x: reference.gated_delta(*x, layout=layout)[0],
        [draw(t, 2, 32), k, draw(t, 4, 16), decay, beta],
        dtype,
    )


@dtypes
@layouts
def test_short_convolution(layout: SequenceLayout, dtype: torch.dtype) -> None:
    there = layout.to(DEVICE)
    compare(
        lambda x, w, b: short_conv(x, w, b, [24], layout=there)[0],
        lambda x, w, b: reference.short_conv(x, w, b, [24], layout=layout)[0],
        [draw(len(layout), 24), draw(4, 24), draw(24)],
        dtype,
    )


@dtypes
def test_norm(dtype: torch.dtype) -> None:
    compare(
        lambda x, w: rms_norm(x, w, 1e-6),
        lambda x, w: reference.rms_norm(x, w, 1e-6),
        [draw(63, 48), draw(48)],
        dtype,
    )


@dtypes
def test_norm_of_what_is_added(dtype: torch.dtype) -> None:
    compare(
        lambda x, added, w: torch.cat(add_norm(x, added, w, 1e-6)),
        lambda x, added, w: torch.cat(reference.add_norm(x, added, w, 1e-6)),
        [draw(63, 48), draw(63, 48), draw(48)],
        dtype,
    )


@dtypes
def test_loss(dtype: torch.dtype) -> None:
    targets = torch.randint(97, (63,))
    compare(
        lambda h, w: linear_cross_entropy(h, w, targets.to(DEVICE), 1e-3).total,
        lambda h, w: reference.linear_cross_entropy(h, w, targets, 1e-3)[0],
        [draw(63, 32), draw(97, 32)],
        dtype,
    )


@dtypes
def test_a_model_equals_its_twin_on_the_host(dtype: torch.dtype) -> None:
    layout = LAYOUTS[-1]
    config = ModelConfig(d_model=128, n_layers=4, pattern="GWMA", vocab_size=256)
    tokens = torch.randint(256, (len(layout),))
    losses: list[float] = []
    gradients: list[Tensor] = []
    for device in ("cpu", DEVICE):
        model = Decoder(config)
        initialize(model, seed=0)
        model.to(device)
        model.compute_dtype = dtype if device == DEVICE else torch.float32
        total = model(tokens.to(device), layout.to(device), tokens.to(device)).total
        total.backward()
        losses.append(total.item())
        gradients.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters()]))  # type: ignore[union-attr]
    assert losses[1] == pytest.approx(losses[0], rel=TOLERANCE[dtype] / 5)
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert error < TOLERANCE[dtype]


def test_inputs_of_blocks_wait_on_the_host() -> None:
    config = ModelConfig(d_model=128, n_layers=4, pattern="GWMA", vocab_size=256)
    tokens = torch.randint(256, (8192,), device=DEVICE)
    layout = SequenceLayout.of_lengths([8192]).to(DEVICE)
    gradients: list[Tensor] = []
    kept: list[int] = []
    for offload in (False, True):
        model = Decoder(config)
        initialize(model, seed=0)
        model.to(DEVICE)
        rematerialize(model, Remat.full, offload=offload)
        before = torch.cuda.memory_allocated()
        total = model(tokens, layout, tokens).total
        kept.append(torch.cuda.memory_allocated() - before)
        total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
    assert (gradients[1] - gradients[0]).norm() < 1e-4 * gradients[0].norm()
    assert kept[0] - kept[1] >= 4 * 4 * len(tokens) * config.d_model
