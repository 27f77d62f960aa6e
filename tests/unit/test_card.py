"""A training step on a device of its own, where there is none: every tensor is where it is needed,
and the host never waits.

Fake tensors have a shape, a dtype and a device, and refuse to be mixed. The device is torch's
``lazy``: the only one besides a CPU that every build of torch can differentiate on.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from test_decoder import config
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from lmtrain.layout import SequenceLayout
from lmtrain.models.decoder import Decoder
from lmtrain.ops import attention, attention_kernels
from lmtrain.ops.backend import Mixer, operations
from lmtrain.ops.config import Backend
from lmtrain.parallel import collectives
from lmtrain.parallel.collectives import Group, Traffic
from lmtrain.parallel.config import ParallelConfig, StrategyConfig
from lmtrain.parallel.mesh import SequenceMesh, divisors
from lmtrain.parallelize import rematerialize, share_rows
from lmtrain.planner import planner
from lmtrain.settings.engine import Remat
from lmtrain_kernels import gated_delta, gated_norm, l2_norm, short_conv, ssd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.models.config import ModelConfig

CARD = torch.device("lazy")
_aten = torch.ops.aten
ASKS = {_aten._local_scalar_dense.default, _aten.nonzero.default, _aten._unique2.default}
"""What needs values on the host."""
RAGGED, EVEN = (1, 37, 1, 1, 80, 39, 97), (64, 64, 64, 64)


class Waits(TorchDispatchMode):
    """Refuses what makes the host wait until a card has done its work."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in ASKS and args[0].device == CARD:
            raise AssertionError(f"{func} waits for the card")
        if func is _aten._to_copy.default and not kwargs.get("non_blocking"):
            there = torch.device(kwargs.get("device") or args[0].device)
            if there.type != args[0].device.type:
                raise AssertionError(f"a copy from {args[0].device} to {there} blocks")
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
    """Tiles of attention go to the kernels of CUDA; all that is around ours is done, to the launch."""
    monkeypatch.setattr(attention_kernels, "_kernel", lambda _: attention_kernels._Flash())  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(JITFunction, "run", lambda *_, **__: None)
    monkeypatch.setattr(InterpretedFunction, "run", lambda *_, **__: None)
    for module in (gated_delta, gated_norm, l2_norm, short_conv, ssd):
        for operation in vars(module).values():
            if isinstance(operation, CustomOpDef):
                monkeypatch.setattr(operation, "_abstract_fn", operation._init_fn)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(
        torch, "lazy", SimpleNamespace(), raising=False
    )  # torch.utils.checkpoint asks


def sizes(pattern: str) -> ModelConfig:
    """Heads that kernels take."""
    settings = config(pattern, d_model=64, n_layers=2 * len(pattern))
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
    for module in model.modules():
        if isinstance(module, Mixer):
            module.use(operations(backend))
    return model


def learn(model: Decoder, *layouts: SequenceLayout) -> None:
    """A step for each layout; gradients must be where the parameters are."""
    with card():
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                on_card = torch.empty(parameter.shape, dtype=parameter.dtype, device=CARD)
                setattr(module, name, torch.nn.Parameter(on_card))
        for layout in layouts:
            text = torch.empty(len(layout), dtype=torch.int64, device=CARD)
            losses = model(text, layout.to(CARD), text, z_loss=1e-4)
            (losses.total / len(layout)).backward()
            assert losses.nll.sum(dtype=torch.float64).device.type == CARD.type
        grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, x in grads.items() if x is None or x.device.type != CARD.type] == []


@pytest.mark.parametrize("backend", [Backend.torch, Backend.triton])
@pytest.mark.parametrize("pattern", ["GWMA", "[AM]-[gw]"])
def test_a_step_never_waits_for_the_card(pattern: str, backend: Backend) -> None:
    model = build(sizes(pattern), backend)
    learn(model, *map(SequenceLayout.of_lengths, (RAGGED, EVEN)))


@pytest.mark.parametrize("remat", [Remat.selective, Remat.full])
def test_blocks_computed_again_never_wait(remat: Remat) -> None:
    model = build(sizes("GWMA"), Backend.triton)
    rematerialize(model, remat)
    learn(model, SequenceLayout.of_lengths(RAGGED))


SHARED = [
    *(("A", name) for name in ("ring", "zigzag", "ulysses", "usp", "gather")),
    *(("W", name) for name in ("halo", "ring", "ulysses", "usp", "gather")),
    *((letter, name) for letter in "MG" for name in ("lasp2", "zeco", "ulysses")),
]


@pytest.mark.parametrize("rank", [0, 2, 3])
@pytest.mark.parametrize(("letter", "strategy"), SHARED)
def test_shared_rows_never_wait(
    letter: str, strategy: str, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = sizes(letter)
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
        with pytest.raises(AssertionError, match="waits for the card"):
            x.sum().item()
        with pytest.raises(AssertionError, match="waits for the card"):
            x[x > 0]
        with pytest.raises(AssertionError, match="blocks"):
            torch.zeros(4).to(CARD)
        with pytest.raises(RuntimeError, match="two devices"):
            x + torch.zeros(4)
        q, layout = torch.zeros(4, 2, 16, device=CARD), SequenceLayout.of_lengths([1, 3])
        with pytest.raises(RuntimeError, match="two devices"):
            attention.attend(q, q, q, layout=layout)
