"""Backends give what torch gives; what cannot run says so; a wrong kernel is found."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import backend_cases
import pytest
import torch
from backend_cases import (
    GROUPS,
    HEADS,
    KEY,
    LAYOUTS,
    ROWS,
    VALUE,
    Given,
    error,
    inputs,
    rule,
)
from cards import DEVICE
from torch import Tensor
from triton import OutOfResources
from world import run

from lmtrain.config import compose
from lmtrain.layout import SequenceLayout
from lmtrain.models.config import GatedDeltaNetConfig, Mamba2Config, MlpConfig, ModelConfig
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.ops import attention_varlen, self_check
from lmtrain.ops import backend as chooser
from lmtrain.ops.attention import attend
from lmtrain.ops.attention_varlen import attend_either, attend_varlen
from lmtrain.ops.backend import TORCH, bind, choose, describe, operations
from lmtrain.ops.config import (
    TRITON_NORM,
    TRITON_ROW,
    TRITON_TAPS,
    TRITON_WIDTHS,
    AttentionKind,
    Backend,
    OpsConfig,
    backend_problems,
    resolve,
)
from lmtrain.ops.kernel import Sizes, Width
from lmtrain.ops.self_check import check_kernels
from lmtrain.parallelize import rematerialize
from lmtrain.settings.engine import Remat
from lmtrain_kernels import gated_norm, short_conv, ssd_tiles
from lmtrain_kernels.table import LEAST_SEGMENT, ChunkTable, segment_chunks

if TYPE_CHECKING:
    from lmtrain.config import RunConfig

TOLERANCE = 1e-4
WIDTHS = [(16, torch.bfloat16), (16, torch.float32), (20, torch.bfloat16)]
RULES = ["ssd", "gated_delta"]
SIZES = {
    "gated_delta": Sizes("gated_delta", 1, 1, 16, 16, 4),
    "ssd": Sizes("ssd", 1, 2, 16, 16, 4),
}
WIDE = {
    "rms_norm": Width("rms_norm", 24),
    "add_norm": Width("add_norm", 24),
    "swiglu": Width("swiglu", 24),
    "rotate": Width("rotate", 24, 16),
}
PARTS = SIZES | WIDE


def layouts(*quick: str) -> pytest.MarkDecorator:
    """All of them, in every test run only these: rules and phases share their kernels."""
    marks = {name: [] if name in quick else [pytest.mark.long] for name in LAYOUTS}
    every = [pytest.param(LAYOUTS[name], marks=marks[name], id=name) for name in LAYOUTS]
    return pytest.mark.parametrize("layout", every)


@layouts("equal documents", "continues")
@pytest.mark.parametrize("name", RULES)
def test_triton_rules_equal_those_of_torch(name: str, layout: SequenceLayout) -> None:
    """Outputs, states and gradients, of all inputs and of the state that enters."""
    given = [*inputs(name, len(layout)), torch.randn(HEADS, KEY, VALUE)]
    cotangents = torch.randn(len(layout), HEADS, VALUE), torch.randn(HEADS, KEY, VALUE)
    results = []
    for backend, device in ((Backend.torch, torch.device("cpu")), (Backend.triton, DEVICE)):
        leaves = [x.clone().to(device).requires_grad_() for x in given]
        found = rule(backend, name).scan(tuple(leaves[:-1]), layout.to(device), leaves[-1])
        d_found = [x.to(device) for x in cotangents]
        grads = torch.autograd.grad(found, leaves, d_found, materialize_grads=True)
        results.append([*found, *grads])
    for expected, actual in zip(*results, strict=True):
        assert error(actual.detach(), expected.detach()) < TOLERANCE


@layouts("ragged", "inside")
@pytest.mark.parametrize("name", RULES)
def test_triton_phases_equal_those_of_torch(name: str, layout: SequenceLayout) -> None:
    """As a carry sees them: with summaries of the span, forward and backward."""
    _compare_phases(name, layout)


@pytest.mark.parametrize(
    ("name", "walks"),
    [
        ("gated_delta", ("delta_states._summarize", "delta_backward._cosummaries")),
        ("ssd", ("ssd_segments._summarize",)),
    ],
)
def test_triton_phases_go_through_segments(
    name: str, walks: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents cut after every chunk, as where a card would stand idle; all summarized once."""
    monkeypatch.setattr("lmtrain.ops.chunk_tables.segment_chunks", lambda *_: 1)
    counted = [Mock(wraps=pkgutil.resolve_name(f"lmtrain_kernels.{walk}")) for walk in walks]
    for walk, count in zip(walks, counted, strict=True):
        monkeypatch.setattr(f"lmtrain_kernels.{walk}", count)
    _compare_phases(name, SequenceLayout((0, 110, 120), 40, 120))
    assert sum(count.call_count for count in counted) == 2  # forward and backward


@pytest.mark.parametrize(
    ("lengths", "programs", "worth", "expected"),
    [
        ([8192], 64, 4, None),  # room for two segments, which summaries would cost more than
        ([8192], 64, 2, 64),
        ([8192], 16, 4, 16),
        ([8192], 4, 4, LEAST_SEGMENT),
        ([8192] * 8, 4, 4, 32),
        ([8192] * 9, 4, 4, None),
        ([100], 200, 2, None),
        ([], 4, 4, LEAST_SEGMENT),
        ([30768] + [200] * 10, 16, 4, 66),  # the longest would walk on alone
        ([7592, 300, 300], 16, 4, 17),
        ([4096, 4096], 16, 4, 16),
        ([2731, 2731, 2730], 16, 4, None),
    ],
)
def test_documents_are_cut_where_a_card_of_132_multiprocessors_has_room(
    lengths: list[int], programs: int, worth: int, expected: int | None
) -> None:
    assert segment_chunks(lengths, 64, programs, 132, worth) == expected


def test_short_documents_beside_a_long_one_hand_on_no_states() -> None:
    """Else a row of thousands of documents would keep as many states."""
    lengths = [20] * 300 + [1000] + [20] * 300
    table = ChunkTable.build(lengths, 64, segment=8)
    edges, long = [[0, 1], [615, 616]], [[300, 308], [308, 316]]
    assert table.linked.tolist() == [edges[0], *long, edges[1]]
    assert table.documents.tolist() == [[0, 1], [1, 3], [3, 4]]
    assert torch.equal(table.segments[:4], table.linked)
    assert len(table.segments) == len(lengths) + 1
    assert (table.cut, table.last) == (True, 3)
    whole = ChunkTable.build(lengths, 64, segment=None)
    assert (len(whole.linked), whole.cut, whole.last) == (0, False, 600)


@pytest.mark.parametrize("lengths", [[], [5, 0, 3]])
def test_a_table_refuses_documents_without_tokens(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="leave out the empty ones"):
        ChunkTable.build(lengths, 64)


def _compare_phases(name: str, layout: SequenceLayout) -> None:
    given = inputs(name, len(layout))
    initial, d_final = (torch.randn(HEADS, KEY, VALUE) for _ in range(2))
    d_out, results = torch.randn(len(layout), HEADS, VALUE), []
    for backend, device in ((Backend.torch, torch.device("cpu")), (Backend.triton, DEVICE)):
        leaves = [x.clone().to(device).requires_grad_() for x in given]
        carry = Given(initial.to(device), d_final.to(device))
        out = rule(backend, name).scan(tuple(leaves), layout.to(device), carry=carry)[0]
        grads = torch.autograd.grad(out, leaves, d_out.to(device))
        assert carry.summary is not None
        assert carry.cosummary is not None
        results.append([out.detach(), *grads, *carry.summary, carry.cosummary])
    for expected, actual in zip(*results, strict=True):
        assert error(actual, expected) < TOLERANCE


@pytest.mark.parametrize("name", RULES)
def test_triton_rules_step_as_they_scan(name: str) -> None:
    ours, given = rule(Backend.triton, name), [x.to(DEVICE) for x in inputs(name, 5)]
    out, final = ours.scan(tuple(given), SequenceLayout.of_lengths([5]).to(DEVICE))
    state = torch.zeros_like(final)
    for t in range(5):
        here, state = ours.step(tuple(x[t] for x in given), state)
        assert error(here, out[t].cpu()) < TOLERANCE
    assert error(state, final.cpu()) < TOLERANCE


def test_groups_share_their_keys() -> None:
    assert HEADS > GROUPS


@cache
def carried() -> list[dict[tuple[str, ...], float]]:
    return run(2, backend_cases.errors)


@pytest.mark.long
@pytest.mark.skipif(DEVICE.type == "cuda", reason="two processes speak over gloo, on the host")
@pytest.mark.parametrize("carry", ["lasp2", "zeco"])
@pytest.mark.parametrize("name", RULES)
def test_two_processes_equal_one(name: str, carry: str) -> None:
    for row in ROWS:
        assert [rank[name, row, carry] < TOLERANCE for rank in carried()] == [True, True]


def model_config(pattern: str) -> ModelConfig:
    return ModelConfig(
        d_model=32,
        n_layers=len(pattern),
        pattern=pattern,
        vocab_size=64,
        mamba2=Mamba2Config(expand=1, head_dim=16, state_dim=16),
        gated_deltanet=GatedDeltaNetConfig(key_heads=1, value_heads=2, key_dim=16, value_dim=16),
        mlp=MlpConfig(hidden=32),
    )


def built(pattern: str, backend: Backend, device: torch.device = DEVICE) -> Decoder:
    model = Decoder(model_config(pattern))
    initialize(model, seed=0)
    model.to(device)
    bind(model, OpsConfig(backend=backend), device, torch.float32)
    return model


@pytest.mark.parametrize("backend", [Backend.triton, Backend.reference])
def test_a_model_computes_the_same(backend: Backend) -> None:
    layout, tokens = SequenceLayout.of_lengths([40, 1, 29]), torch.randint(64, (70,))
    losses, gradients = [], []
    for kind, device in ((Backend.torch, torch.device("cpu")), (backend, DEVICE)):
        model = built("GM", kind, device)
        total = model(tokens.to(device), layout.to(device), tokens.to(device)).total
        total.backward()
        losses.append(total.item())
        gradients.append({n: p.grad.cpu() for n, p in model.named_parameters()})  # type: ignore[union-attr]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, expected in gradients[0].items():
        assert error(gradients[1][name], expected) < 1e-3, name


@pytest.mark.parametrize("remat", [Remat.selective, Remat.full])
@pytest.mark.parametrize("pattern", ["G", "M"])
def test_blocks_computed_again_give_the_same(pattern: str, remat: Remat) -> None:
    layout, tokens = SequenceLayout.of_lengths([3, 9]).to(DEVICE), torch.randint(64, (12,))
    gradients = []
    for again in (Remat.none, remat):
        model = built(pattern, Backend.triton)
        rematerialize(model, again)
        model(tokens.to(DEVICE), layout, tokens.to(DEVICE)).total.backward()
        gradients.append([parameter.grad.cpu() for parameter in model.parameters()])  # type: ignore[union-attr]
    for expected, found in zip(*gradients, strict=True):
        assert error(found, expected) < TOLERANCE


@pytest.mark.parametrize("backend", [Backend.triton, Backend.reference])
def test_a_model_reads_token_by_token_what_it_reads_at_once(backend: Backend) -> None:
    model, tokens = built("GM", backend), torch.randint(64, (9,), device=DEVICE)
    at_once, _ = model.extend(tokens, model.initial_states())
    first, state = model.extend(tokens[:6], model.initial_states())
    rows = [first]
    for token in tokens[6:]:
        row, state = model.extend(token[None], state)
        rows.append(row)
    assert error(torch.cat(rows), at_once.cpu()) < TOLERANCE


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch
@pytest.mark.skipif(DEVICE.type == "cuda", reason="graphs of the interpreter")
@pytest.mark.parametrize("pattern", ["G", "M"])
def test_a_block_compiles_to_one_graph_for_all_documents(pattern: str) -> None:
    """Tables of other lengths are other sizes of the same graph, once a second one was seen."""
    from torch._dynamo.testing import CompileCounterWithBackend

    model = built(pattern, Backend.triton)
    block, counter = model.blocks[0], CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block.forward, fullgraph=True, backend=counter)  # type: ignore[arg-type]
    torch._dynamo.reset()  # what it learnt of the other pattern
    for lengths in ([12, 8], [5, 7, 8], [4, 3, 6, 7]):
        layout, results = SequenceLayout.of_lengths(lengths), []
        x, d_out = torch.randn(20, 32, requires_grad=True), torch.randn(20, 32)
        for run_block in (block, compiled):  # the first also derives what the graph reads
            out = run_block(x, layout)
            grads = torch.autograd.grad(out, [x, *block.parameters()], d_out)
            results.append([out.detach(), *grads])
        for expected, actual in zip(*results, strict=True):
            assert error(actual, expected) < TOLERANCE
    assert counter.frame_count <= 2


def test_auto_takes_triton_from_compute_capability_8_on() -> None:
    assert resolve(Backend.auto, None) is Backend.torch
    assert resolve(Backend.auto, 75) is Backend.torch
    assert resolve(Backend.auto, 80) is Backend.triton
    assert resolve(Backend.fla, None) is Backend.fla


@pytest.mark.parametrize(
    ("backend", "card", "told"),
    [
        (Backend.triton, 75, "ops.backend=triton needs compute capability 8.0, this card has 7.5"),
        (Backend.fla, 90, "ops.backend=fla, but fla is not installed: pip install 'lmtrain[fla]'"),
        (Backend.flash_qla, 90, "but flash_qla is not installed: pip install 'lmtrain[flash_qla]'"),
    ],
)
def test_what_cannot_run_says_so(
    backend: Backend, card: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmtrain.ops.config.find_spec", lambda name: name == "triton" or None)
    [problem] = backend_problems(backend, card)
    assert told in problem
    assert "say ops.backend=torch" in problem


def test_triton_needs_a_card_or_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backend_problems(Backend.triton, None) == []
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert backend_problems(Backend.triton, None) == [
        "ops.backend=triton needs CUDA, and there is none: say ops.backend=torch"
    ]


def test_a_run_is_refused_before_it_starts(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key, value and remedy of what the mixers cannot be computed with."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    here = [*tiny, "engine.device=cpu"]

    def told(*overrides: str) -> list[str]:
        config: RunConfig = compose([*here, *overrides])
        return config.check(config.parallel.sequence)

    assert told() == []
    assert told("ops.backend=reference") == []
    assert told("ops.backend=triton", "model.pattern=A") == []
    assert told("ops.backend=triton", "model.pattern=GA") == []
    assert told("ops.backend=triton", "model.pattern=GA", "model.gated_deltanet.key_dim=8") == [
        "model.gated_deltanet.key_dim=8 is not between 16 and 256, as ops.backend=triton needs: "
        "change it, or say ops.backend=torch"
    ]
    wide = ("model.pattern=M", "model.mamba2.inner=16384")
    assert told("ops.backend=triton", *wide) == [
        "model.mamba2.groups=1 leaves a norm 16384 numbers, and ops.backend=triton takes 8192: "
        "raise it, or say ops.backend=torch"
    ]
    assert told("ops.backend=triton", *wide, "model.mamba2.groups=2") == []
    assert told("ops.backend=triton", *wide, "model.mamba2.norm=false") == []
    shared = ("parallel.sequence=2", "model.pattern=GA", "train.tokens_per_step=512")
    [problem] = told("ops.backend=reference", *shared)
    assert "say parallel.strategy.G=ulysses, or ops.backend=torch" in problem
    assert told("ops.backend=reference", *shared, "parallel.strategy.G=ulysses") == []
    [problem] = told("ops.attention=varlen")
    assert problem == "ops.attention=varlen needs CUDA, and there is none: say ops.attention=sdpa"
    [problem] = told("ops.flash=fa3")
    assert "say ops.flash=torch" in problem


def test_a_model_is_refused_that_kernels_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a checkpoint too, whose shapes no check of a run has seen."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    config = replace(model_config("GM"), gated_deltanet=GatedDeltaNetConfig(conv_width=9))
    with pytest.raises(ValueError, match="8 taps of ops.backend=triton") as refused:
        bind(Decoder(config), OpsConfig(backend=Backend.triton), DEVICE, torch.float32)
    assert str(refused.value).startswith("model.gated_deltanet.conv_width=9 is more than")
    bind(Decoder(config), OpsConfig(backend=Backend.torch), DEVICE, torch.float32)


def test_a_stream_too_wide_for_kernels_is_refused() -> None:
    config = replace(model_config("A"), d_model=16400)
    with torch.device("meta"):
        model = Decoder(config)
    with pytest.raises(ValueError, match="norms of 16400 numbers, and ops.backend=triton takes"):
        bind(model, OpsConfig(backend=Backend.triton), DEVICE, torch.float32)


def test_limits_are_those_of_the_kernels() -> None:
    assert (TRITON_WIDTHS[0], TRITON_WIDTHS[-1]) == (ssd_tiles.LEAST_WIDTH, ssd_tiles.MOST_WIDTH)
    assert TRITON_TAPS == short_conv.MOST_TAPS
    assert TRITON_NORM == gated_norm.MOST_WIDTH_WITH_SKIP
    assert TRITON_ROW == gated_norm.MOST_WIDTH


def test_mixers_without_a_norm_are_checked_without_one() -> None:
    spoiled = replace(TORCH, gate_then_norm=None)  # type: ignore[arg-type]
    sizes = SIZES["ssd"]._replace(norm=False)
    check_kernels(spoiled, sizes, torch.device("cpu"), torch.float32)


def test_the_reference_takes_no_carried_state() -> None:
    given, state = inputs("ssd", 4), torch.zeros(HEADS, KEY, VALUE)
    with pytest.raises(ValueError, match=r"ops.backend=reference takes no state"):
        rule(Backend.reference, "ssd").scan(
            tuple(given), SequenceLayout.of_lengths([4]), carry=Given(state, state)
        )


def test_the_log_says_who_computes() -> None:
    cpu = torch.device("cpu")
    line = describe(OpsConfig(), cpu)
    assert f"by torch {torch.__version__} (ops.backend=auto)" in line
    assert line.endswith("attention by torch's sdpa")
    assert "token by token" in describe(OpsConfig(backend=Backend.reference), cpu)
    with pytest.raises(ValueError, match="say ops.attention=sdpa"):
        describe(OpsConfig(attention=AttentionKind.varlen), cpu)


@pytest.mark.parametrize(
    ("kind", "card", "expected"),
    [
        (AttentionKind.auto, None, attend),
        (AttentionKind.auto, 75, attend),
        (AttentionKind.auto, 80, attend_either),
        (AttentionKind.varlen, 90, attend_varlen),
        (AttentionKind.sdpa, 90, attend),
    ],
)
def test_the_card_decides_how_documents_meet_attention(
    kind: AttentionKind, card: int | None, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chooser, "capability", lambda _: card)
    config = OpsConfig(backend=Backend.torch, attention=kind)
    assert choose(config, torch.device("cpu")).attend is expected


def test_one_call_is_for_windows_and_many_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = list[str]()
    for name in ("attend", "attend_varlen"):
        monkeypatch.setattr(attention_varlen, name, lambda *_, name=name, **__: taken.append(name))
    even, mixed = SequenceLayout.of_lengths([4, 4]), SequenceLayout.of_lengths([3, 5])
    half, full, odd = (torch.zeros(8, 2, d, dtype=t) for d, t in WIDTHS)
    for q, layout, window in (
        *((half, even, None), (half, even, 2), (half, mixed, None)),
        *((full, mixed, None), (odd, mixed, None)),
    ):
        attend_either(q, q, q, layout=layout, window=window)
    assert taken == ["attend", "attend_varlen", "attend_varlen", "attend", "attend"]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The long document of the self-check is three chunks, and is cut after each."""
    monkeypatch.setattr(self_check, "LONG", SequenceLayout((0, 135), 5, 135))
    monkeypatch.setattr(
        "lmtrain.ops.chunk_tables.segment_chunks", lambda x, *_: 1 if len(x) == 1 else None
    )


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("name", PARTS)
def test_right_kernels_pass_their_self_check(name: str) -> None:
    check_kernels(operations(Backend.triton), PARTS[name], DEVICE, torch.float32)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize(
    ("name", "scan"),
    [
        ("gated_delta", "lmtrain_kernels.delta_forward.enter_segments"),
        ("gated_delta", "lmtrain_kernels.gated_delta.cosummarize_segments"),
        ("ssd", "lmtrain_kernels.ssd.enter_segments"),
    ],
)
def test_a_wrong_state_between_segments_is_refused(
    name: str, scan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a card would be idle without segments, what links them is checked too."""
    right = pkgutil.resolve_name(scan)

    def wrong(*args: Any, **named: Any) -> Tensor:
        [table] = (x for x in args if isinstance(x, ChunkTable))
        return (1.2 if table.cut else 1) * right(*args, **named)

    monkeypatch.setattr(scan, wrong)
    monkeypatch.setattr(self_check, "LAYOUT", SequenceLayout((0, 7, 9), 5, 9))
    spoiled = replace(operations(Backend.triton), by=f"{scan}, spoiled")
    with pytest.raises(RuntimeError, match=f"{scan}, spoiled is wrong"):
        check_kernels(spoiled, SIZES[name], DEVICE, torch.float32)


@pytest.mark.parametrize("value", [64, 128, 256])
@pytest.mark.parametrize("multiprocessors", [108, 132, 160])
@pytest.mark.parametrize("name", RULES)
def test_cards_cut_the_long_document_of_the_self_check(
    name: str, multiprocessors: int, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lmtrain.ops.chunk_tables.multiprocessors", lambda *_, **__: multiprocessors
    )
    layout = self_check.LONG.to(torch.device("cpu"))
    v = torch.empty(len(layout), 2, value)
    table = rule(Backend.triton, name).grid((v, v, v), layout).table
    assert table.cut


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PARTS)
def test_torch_passes_the_self_check(name: str, dtype: torch.dtype) -> None:
    check_kernels(TORCH, PARTS[name], torch.device("cpu"), dtype)


@pytest.mark.parametrize("name", WIDE)
def test_a_wrong_operation_of_one_width_is_refused(name: str) -> None:
    right = getattr(TORCH, name)

    def wrong(*inputs: Any) -> Any:
        found = right(*inputs)
        return tuple(1.1 * y for y in found) if isinstance(found, tuple) else 1.1 * found

    spoiled = replace(TORCH, by="torch, spoiled", **{name: wrong})
    with pytest.raises(RuntimeError, match=f"{name} by torch, spoiled is wrong"):
        check_kernels(spoiled, WIDE[name], torch.device("cpu"), torch.float32)


def test_a_wrong_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decay of one kernel has the wrong sign."""
    from lmtrain.ops import triton_delta

    right = triton_delta.gated_delta

    def wrong(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, *rest: Any) -> Any:
        return right(q, k, v, -0.1 * decay, *rest)

    monkeypatch.setattr(triton_delta, "gated_delta", wrong)
    spoiled = replace(operations(Backend.triton), by="triton, spoiled")
    with pytest.raises(RuntimeError) as refused:
        check_kernels(spoiled, SIZES["gated_delta"], DEVICE, torch.float32)
    told = str(refused.value)
    assert told.startswith("gated_delta by triton, spoiled is wrong on ")
    assert f"torch {torch.__version__}" in told
    assert "ops.backend=torch" in told


def test_a_kernel_that_does_not_fit_on_the_card_is_refused_in_a_sentence() -> None:
    def large(*_: Any, **__: Any) -> Tensor:
        raise OutOfResources(115_456, 101_376, "shared memory")

    wide = replace(TORCH, short_conv=large, by="large tiles")
    with pytest.raises(ValueError, match=r"^short_conv by large tiles cannot run on cpu") as told:
        check_kernels(wide, SIZES["ssd"], torch.device("cpu"), torch.float32)
    assert "shared memory, Required: 115456, Hardware limit: 101376" in str(told.value)
    assert str(told.value).endswith("Say ops.backend=torch")


@pytest.mark.parametrize("part", ["short_conv", "gate_then_norm"])
def test_a_wrong_gradient_is_refused(part: str) -> None:
    """Outputs are right, and what comes back is one percent too large."""

    def grow(y: Tensor) -> Tensor:
        return y + 0.01 * (y - y.detach())

    def grown(x: Tensor, *rest: Any, **named: Any) -> Any:
        found = getattr(TORCH, part)(x, *rest, **named)
        return grow(found) if isinstance(found, Tensor) else tuple(map(grow, found))

    spoiled = replace(TORCH, **{part: grown}, by=f"{part} spoiled")
    with pytest.raises(RuntimeError, match="gradient of input 0 is off by 0.01"):
        check_kernels(spoiled, SIZES["ssd"], torch.device("cpu"), torch.float32)
