"""A training step on a device of its own, where there is none: every tensor is where it is needed,
and the host never waits.

Fake tensors have a shape, a dtype and a device, and refuse to be mixed. The device is torch's
``lazy``: the only one besides a CPU that every build of torch can differentiate on.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from test_decoder import config
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from lmtrain.layout import SequenceLayout
from lmtrain.models.decoder import Decoder
from lmtrain.ops import attention, attention_kernels
from lmtrain.ops.attention_varlen import attend_either
from lmtrain.ops.backend import Part, operations
from lmtrain.ops.config import Backend
from lmtrain.parallel import collectives, zeco
from lmtrain.parallel.collectives import Group, Traffic
from lmtrain.parallel.config import ParallelConfig, StrategyConfig
from lmtrain.parallel.mesh import SequenceMesh, divisors
from lmtrain.parallel.strategy import FITS, Strategy
from lmtrain.parallelize import rematerialize, share_rows
from lmtrain.planner import planner
from lmtrain.settings.engine import Remat
from lmtrain_kernels import (
    gated_delta,
    gated_norm,
    gates,
    l2_norm,
    rotary,
    short_conv,
    ssd,
    swiglu,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.models.config import ModelConfig

CARD = torch.device("lazy")
RAGGED, EVEN = (1, 37, 1, 1, 80, 39, 97), (64, 64, 64, 64)


class Waits(TorchDispatchMode):
    """Refuses copies that the host waits for; values on the host a fake tensor refuses itself."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and not kwargs.get("non_blocking"):
            here, there = args[0].device, torch.device(kwargs.get("device") or args[0].device)
            assert here.type == there.type, f"a copy from {here} to {there} blocks"
        return func(*args, **kwargs)


@contextmanager
def card() -> Iterator[None]:
    """Meanwhile every tensor is fake."""
    attention._band.cache_clear()  # pyright: ignore[reportPrivateUsage]
    with FakeTensorMode(allow_non_fake_inputs=True), Waits():
        yield
    attention._band.cache_clear()  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of attention go to CUDA's kernels; of ours all is done but the launch itself."""
    monkeypatch.setattr(attention_kernels, "_kernel", lambda _: attention_kernels._Flash())  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(JITFunction, "run", lambda *_, **__: None)
    monkeypatch.setattr(InterpretedFunction, "run", lambda *_, **__: None)
    for module in (gated_delta, gated_norm, gates, l2_norm, rotary, short_conv, ssd, swiglu):
        for operation in vars(module).values():
            if isinstance(operation, CustomOpDef):
                monkeypatch.setattr(operation, "_abstract_fn", operation._init_fn)  # pyright: ignore[reportPrivateUsage]
    # torch.utils.checkpoint asks for the module of a device
    monkeypatch.setattr(torch, "lazy", SimpleNamespace(), raising=False)


def sizes(pattern: str, n_layers: int = 4) -> ModelConfig:
    """Heads that kernels take."""
    settings = config(pattern, d_model=64, n_layers=n_layers)
    settings.attention.rope = True
    settings.mamba2.head_dim = settings.mamba2.state_dim = 16
    settings.gated_deltanet.key_dim = settings.gated_deltanet.value_dim = 16
    assert settings.check() == []
    return settings


def build(settings: ModelConfig, backend: Backend) -> Decoder:
    """A model without storage."""
    with torch.device("meta"):
        model = Decoder(settings)
    model.compute_dtype = torch.bfloat16
    chosen = operations(backend)
    if backend is Backend.triton:
        chosen = replace(chosen, attend=attend_either)
    for module in model.modules():
        if isinstance(module, Part):
            module.use(chosen)
    return model


def materialize(model: Decoder) -> None:
    """Give it parameters on the card."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            values = torch.empty(parameter.shape, dtype=parameter.dtype, device=CARD)
            setattr(module, name, torch.nn.Parameter(values))


def learn(model: Decoder, *layouts: SequenceLayout) -> None:
    """A step for each layout; gradients must be where the parameters are."""
    with card():
        materialize(model)
        for layout in layouts:
            text = torch.empty(len(layout), dtype=torch.int64, device=CARD)
            losses = model(text, layout.to(CARD), text, z_loss=1e-4)
            (losses.total / len(layout)).backward()
            assert losses.nll.sum(dtype=torch.float64).device.type == CARD.type
        grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, x in grads.items() if x is None or x.device.type != CARD.type] == []


@pytest.mark.parametrize("backend", [Backend.torch, Backend.triton])
@pytest.mark.parametrize("pattern", ["GWMA", "[AM]-[gw]-"])
def test_a_step_never_waits_for_the_card(pattern: str, backend: Backend) -> None:
    model = build(sizes(pattern), backend)
    learn(model, *map(SequenceLayout.of_lengths, (RAGGED, EVEN)))


@pytest.mark.parametrize("remat", [Remat.selective, Remat.full])
def test_blocks_computed_again_never_wait(remat: Remat) -> None:
    model = build(sizes("GWMA"), Backend.triton)
    rematerialize(model, remat)
    learn(model, SequenceLayout.of_lengths(RAGGED))


def test_reading_on_never_waits() -> None:
    model = build(sizes("GWMA"), Backend.triton)
    with card():
        materialize(model)
        state = model.initial_states()
        for count in (40, 1, 1, 7):
            text = torch.empty(count, dtype=torch.int64, device=CARD)
            hidden, state = model.extend(text, state)
            assert model.logits(hidden).device.type == CARD.type


@pytest.mark.parametrize(
    "rank", [2, *(pytest.param(rank, marks=pytest.mark.long) for rank in (0, 3))]
)
@pytest.mark.parametrize(("letter", "strategy"), [(x, s) for x in FITS for s in FITS[x]])
def test_shared_rows_never_wait(
    letter: str, strategy: Strategy, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = sizes(letter, 1)
    model = build(settings, Backend.triton)
    parallel = ParallelConfig(sequence=4, strategy=StrategyConfig(**{letter: strategy}))
    choosers = planner(settings, parallel, device="cuda", element=2)
    share_rows(model, choosers, mesh(rank, monkeypatch))
    rows = (SequenceLayout.of_lengths(lengths) for lengths in (RAGGED, EVEN, (200, 56)))
    learn(model, *(row.shard(rank, 4) for row in rows))


def mesh(rank: int, monkeypatch: pytest.MonkeyPatch) -> SequenceMesh:
    """One of four ranks; what it says nobody hears."""
    sent = SimpleNamespace(wait=lambda: None)
    silent = SimpleNamespace(
        all_to_all_single=lambda *_, **__: sent,
        batch_isend_irecv=lambda operations: [sent] * len(operations),
        P2POp=lambda *_, **__: None,
        isend=None,
        irecv=None,
        get_rank=lambda: rank,
    )
    monkeypatch.setattr(collectives, "dist", silent)
    for name in ("_all_gather", "_reduce_scatter"):
        monkeypatch.setattr(collectives, name, lambda *_, **__: sent)
    monkeypatch.setattr(zeco, "beside", lambda work, *_: partial(lambda found: found, work()))
    handle: Any = None
    groups = {
        (degree, stride): Group(
            handle, (rank % degree) // stride, degree // stride, CARD, Traffic()
        )
        for degree in divisors(4)[1:]
        for stride in divisors(degree)[:-1]
    }
    return SequenceMesh(4, rank, groups)


def test_what_waits_is_found() -> None:
    with card():
        x = torch.zeros(4, device=CARD)
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
        with pytest.raises(DynamicOutputShapeException):
            x[x > 0]  # pyright: ignore[reportUnusedExpression]
        with pytest.raises(AssertionError, match="blocks"):
            torch.zeros(4).to(CARD)
        with pytest.raises(RuntimeError, match=r"two (different )?devices"):
            x + torch.zeros(4)  # pyright: ignore[reportUnusedExpression]
        q, layout = torch.zeros(4, 2, 16, device=CARD), SequenceLayout.of_lengths([1, 3])
        with pytest.raises(RuntimeError, match=r"two (different )?devices"):
            attention.attend(q, q, q, layout=layout)
