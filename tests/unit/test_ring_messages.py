"""What a ring sends, when, and in which dtype; what it must not see."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
import threads
import torch
from ring_cases import STRATEGIES, WIDTH, Case, alone, expected_bytes, inputs, shared
from torch import Tensor

from lmtrain.layout import SequenceLayout
from lmtrain.ops.remat import full
from lmtrain.parallel.ring import ring, ring_bytes

if TYPE_CHECKING:
    from threads import ThreadGroup

strategies = pytest.mark.parametrize("strategy", STRATEGIES)
HARD = (5, 17, 1, 1, 9, 3)
"""Three spans of 12."""


@strategies
def test_gradients_of_keys_travel_in_fp32_and_leave_in_their_dtype(strategy: str) -> None:
    case, bf16 = Case(strategy, (36,), (4, 2), None), torch.bfloat16

    def work(group: ThreadGroup) -> tuple[list[torch.dtype], list[Tensor]]:
        found = shared(group, case, bf16)
        return group.dtypes, found

    results = threads.run(3, work)
    for dtypes, found in results:
        assert [x.dtype for x in found] == [bf16] * 4
        assert set(dtypes) <= {bf16, torch.float32}
    assert torch.float32 in {dtype for dtypes, _ in results for dtype in dtypes}
    whole = alone(case)
    for index, expected in enumerate(whole):
        actual = torch.cat([found[index] for _, found in results]).double()
        assert (actual - expected).norm() < 0.02 * expected.norm()


@strategies
def test_recomputation_sends_nothing(strategy: str) -> None:
    """Two layers under checkpointing: forward bytes once, backward bytes once."""
    case = Case(strategy, HARD, (4, 2), None)

    def work(group: ThreadGroup) -> tuple[list[Tensor], list[Tensor]]:
        layout = SequenceLayout.of_lengths(HARD).shard(group.rank, group.size)
        *qkv, grad = (x[layout.start : layout.stop].clone() for x in inputs(case))
        gradients = []
        for checkpointed in (False, True):
            given = [x.clone().requires_grad_() for x in qkv]

            def layers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                attend = STRATEGIES[strategy]
                q = q + attend(q, k, v, layout=layout, group=group)
                return attend(q.sin(), k, v.cos(), layout=layout, group=group)

            before = group.traffic.sent
            out = full(layers, *given) if checkpointed else layers(*given)
            between = group.traffic.sent
            gradients.append(torch.autograd.grad(out, given, grad))
            sent = between - before, group.traffic.sent - between
            there, back = expected_bytes(case, layout, group.size, torch.float64)
            assert sent == (2 * there, 2 * back)
        return gradients[0], gradients[1]

    for plain, again in threads.run(3, work):
        assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@strategies
@pytest.mark.parametrize("window", [None, 7])
def test_a_token_changes_only_what_may_see_it(strategy: str, window: int | None) -> None:
    """Everything before it, and all other documents, stay bit for bit."""
    case = Case(strategy, HARD, (2, 1), window)
    layout = SequenceLayout.of_lengths(HARD)

    def work(group: ThreadGroup, given: list[Tensor]) -> Tensor:
        here = layout.shard(group.rank, group.size)
        qkv = [x[here.start : here.stop] for x in given]
        return STRATEGIES[strategy](*qkv, layout=here, group=group, window=window)

    *qkv, _ = inputs(case)
    before = torch.cat(threads.run(3, work, qkv))
    for token in range(len(layout)):
        changed = [x.clone() for x in qkv]
        for x in changed:
            x[token] += 1
        after = torch.cat(threads.run(3, work, changed))
        end = next(b for b in layout.bounds if b > token)
        last = end if window is None else min(end, token + window)
        assert torch.equal(before[:token], after[:token])
        assert torch.equal(before[last:], after[last:])
        assert (before[token:last] != after[token:last]).flatten(1).any(1).all()


def test_keys_travel_as_far_as_they_are_seen_and_no_farther() -> None:
    """Bytes of random rows, against a count over all pairs of tokens."""
    random = Random(0)
    for _ in range(80):
        ranks, span = random.randint(1, 4), random.randint(1, 8)
        row = ranks * span
        cuts = random.sample(range(1, row), min(row - 1, random.choice([0, 0, 1, 3])))
        layout = SequenceLayout.whole((0, *sorted(cuts), row))
        window = random.choice([None, 1, 2, span, span + 2])
        shape = {"heads": (1, 1), "head_dim": 8, "dtype": torch.float32, "window": window}
        for rank in range(ranks):
            keys, sums = travelled(layout, rank, ranks, window)
            sent = ring_bytes(layout.shard(rank, ranks), ranks, **shape)
            assert sent == (64 * keys, 64 * (keys + sums))


def travelled(layout: SequenceLayout, rank: int, ranks: int, window: int | None) -> tuple[int, int]:
    """Keys, and gradients of keys, that a rank of a contiguous ring sends."""
    i, span = torch.arange(layout.bounds[-1]), layout.bounds[-1] // ranks
    seen = (i[:, None] > i) & (layout.document[:, None] == layout.document)
    seen &= i[:, None] - i < (window or len(i) + 1)
    by = seen.unflatten(0, (ranks, span)).any(1).unflatten(1, (ranks, span))  # rank, rank, key
    keys = sums = 0
    for source in range(rank + 1):
        beyond, upto = by[rank + 1 :, source], by[source + 1 : rank + 1, source]
        keys += int(beyond.any(0).sum())
        sums += int(upto.any(0).sum()) if by[rank:, source].any() else 0
    return keys, sums


@pytest.mark.parametrize("window", [None, 3])
def test_documents_that_stay_in_their_spans_send_nothing(window: int | None) -> None:
    layout = SequenceLayout.of_lengths([4, 8, 12, 1, 11]).shard(1, 3)
    shape = {"heads": (4, 2), "head_dim": WIDTH, "dtype": torch.bfloat16}
    assert ring_bytes(layout, 3, window=window, **shape) == (0, 0)


def test_rows_that_do_not_fit_are_refused() -> None:
    def send(layout: SequenceLayout, *, zigzag: bool) -> None:
        x = torch.zeros(7, 1, WIDTH)
        threads.run(3, lambda group: ring(x, x, x, layout=layout, group=group, zigzag=zigzag))

    with pytest.raises(ValueError, match="7 tokens a rank are odd: use a multiple of 6"):
        send(SequenceLayout((0, 9, 21), 7, 14), zigzag=True)
    with pytest.raises(ValueError, match="not one of 3 equal spans: restrict the layout"):
        send(SequenceLayout((0, 9, 23), 7, 14), zigzag=False)


def test_a_ring_of_many_ranks_is_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = SequenceLayout.of_lengths([40]).shard(0, 5)
    shape = {"heads": (4, 2), "head_dim": WIDTH, "dtype": torch.bfloat16}
    first = ring_bytes(layout, 5, **shape)
    monkeypatch.setattr("lmtrain.parallel.routes.visible", None)
    assert ring_bytes(layout, 5, **shape) == first
