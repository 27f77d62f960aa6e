"""Tiles cover what is visible, once; their merged results are attention; gradients follow."""

from __future__ import annotations

from itertools import pairwise, product
from random import Random

import numpy as np
import pytest
import torch

from lmtrain.layout import SequenceLayout
from lmtrain.ops import reference
from lmtrain.ops.attention_blocks import attend_tiles, merge
from lmtrain.ops.attention_kernels import attend_tile, tile_gradients
from lmtrain.ops.tiles import Places, Shape, Tile, seen, visible

TOLERANCE = 1e-12


def allowed(bounds: tuple[int, ...], window: int | None) -> np.ndarray:
    """``[row, row]`` bool: where a query sees a key."""
    i = np.arange(bounds[-1])
    document = np.searchsorted(bounds[1:], i, side="right")
    mask = (i[:, None] >= i) & (document[:, None] == document)
    return mask if window is None else mask & (i[:, None] - i < window)


def draw_into(count: np.ndarray, tiles: list[Tile]) -> None:
    """Count each pair of the tiles."""
    for tile in tiles:
        pairs = np.ones((tile.queries.length, tile.keys.length), dtype=int)
        if tile.shape is not Shape.FULL:
            pairs = np.tril(pairs) if tile.shape is Shape.CAUSAL else np.triu(pairs)
        for q, k in zip(tile.queries.starts, tile.keys.starts, strict=True):
            count[q : q + tile.queries.length, k : k + tile.keys.length] += pairs


def packing(random: Random) -> tuple[tuple[int, ...], int, int | None]:
    """Bounds of a row, the length of its stretches, and a window."""
    length, stretches = random.randint(1, 9), random.randint(1, 6)
    total = length * stretches
    cuts = random.sample(range(1, total), min(total - 1, random.choice([0, 1, 2, 4, 12])))
    window = random.choice([None, 1, 2, 3, length, length + 1, 2 * length, total, total + 2])
    return (0, *sorted(cuts), total), length, window


@pytest.mark.parametrize("seed", range(4))
def test_tiles_cover_every_visible_pair_once(seed: int) -> None:
    """Spans of a row, and equally the half spans of a zigzag."""
    random = Random(seed)
    for _ in range(500):
        check_tiles(*packing(random))


def check_tiles(bounds: tuple[int, ...], length: int, window: int | None) -> None:
    mask, count, pairs = allowed(bounds, window), np.zeros((bounds[-1],) * 2, dtype=int), 0
    stretches = list(pairwise(range(0, bounds[-1] + 1, length)))
    for queries, keys in product(stretches, stretches):
        tiles = visible(bounds, queries, keys, window, at=(queries[0], keys[0]))
        draw_into(count, tiles)
        pairs += sum(tile.pairs for tile in tiles)
        for places in [p for tile in tiles for p in (tile.queries, tile.keys)]:
            assert all(b - a >= places.length for a, b in pairwise(places.starts))
        if keys[1] <= queries[0]:
            part = mask[slice(*queries), slice(*keys)]
            check_seen(seen(bounds, queries, keys, window), part, queries, keys)
    assert (count == mask).all()
    assert pairs == mask.sum()


def check_seen(
    found: tuple[tuple[int, int], tuple[int, int]] | None,
    part: np.ndarray,
    queries: tuple[int, int],
    keys: tuple[int, int],
) -> None:
    """The smallest rectangle: the first queries, the last keys."""
    rows, columns = part.any(1), part.any(0)
    if found is None:
        assert not rows.any()
        return
    assert found[0] == (queries[0], queries[0] + int(rows.sum()))
    assert found[1] == (keys[1] - int(columns.sum()), keys[1])


@pytest.mark.parametrize("starts", [(0,), (1, 4), (0, 3, 6), (0, 3, 7)])
def test_places_read_write_and_add(starts: tuple[int, ...]) -> None:
    places, x = Places(starts, 3), torch.randn(10, 2, 5)
    index = torch.tensor(starts)[:, None] + torch.arange(3)
    assert torch.equal(places.read(x), x[index])
    expected, values = x.clone(), torch.randn(len(starts), 3, 2, 5)
    expected[index] += values
    places.add(x, values)
    assert torch.equal(x, expected)
    expected[index] = values
    places.write(x, values)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("window", [None, 1, 7, 64])
def test_tiles_of_a_row_are_attention(heads: tuple[int, int], window: int | None) -> None:
    layout = SequenceLayout.of_lengths([9, 1, 30, 9, 14, 9])
    t = len(layout)
    q, k, v, grad = (
        torch.randn(t, n, 6, dtype=torch.float64, requires_grad=True)
        for n in (*heads, heads[1], heads[0])
    )
    out = attend_tiles(q, k, v, visible(layout.bounds, (0, t), (0, t), window))
    expected = reference.attend(q, k, v, layout=layout, window=window)
    have = torch.autograd.grad(out, [q, k, v], grad)
    want = torch.autograd.grad(expected, [q, k, v], grad)
    for a, b in zip([out, *have], [expected, *want], strict=True):
        assert (a - b).abs().max() < TOLERANCE


def test_gradients_of_a_part_add_up_to_those_of_all() -> None:
    """Each half of the keys alone, given the output and the normaliser of both."""
    q, k, v, grad = (torch.randn(2, 5, 3, 4, dtype=torch.float64) for _ in range(4))
    out, lse = attend_tile(q, k, v, causal=False)
    whole = tile_gradients(grad, q, k, v, out, lse, causal=False)
    parts = [
        tile_gradients(grad, q, k[:, s], v[:, s], out, lse, causal=False)
        for s in (slice(0, 2), slice(2, 5))
    ]
    assert torch.allclose(parts[0][0] + parts[1][0], whole[0], atol=TOLERANCE)
    for i in (1, 2):
        assert torch.allclose(torch.cat([part[i] for part in parts], 1), whole[i], atol=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_at_least_fp32(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(1, 5, n, 4).to(dtype) for n in (4, 2, 2))
    out, lse = attend_tile(q, k, v, causal=True)
    exact = torch.promote_types(dtype, torch.float32)
    assert (out.dtype, lse.dtype) == (dtype, exact)
    grads = tile_gradients(out, q, k, v, out, lse, causal=True)
    assert [g.dtype for g in grads] == [exact] * 3
    assert [g.shape for g in grads] == [q.shape, k.shape, v.shape]


@pytest.mark.parametrize("gap", [0.0, 1e4, -1e4, torch.inf, -torch.inf])
def test_results_merge_whatever_lies_between_their_normalisers(gap: float) -> None:
    lse = torch.tensor([5e3 + gap, -torch.inf]) if gap != torch.inf else torch.zeros(2)
    more_lse = torch.tensor([5e3, -torch.inf]) if gap != torch.inf else lse - torch.inf
    out, total = merge(torch.ones(2, 3), lse, torch.full((2, 3), 3.0), more_lse)
    expected = {0.0: 2.0, 1e4: 1.0, torch.inf: 1.0}.get(gap, 3.0)
    assert torch.equal(out[0], torch.full((3,), expected))
    assert total[0] == torch.logaddexp(lse, more_lse)[0]
    assert out.isfinite().all()
    assert gap == torch.inf or (out[1] == 0).all()


def test_a_dtype_without_a_kernel_is_refused() -> None:
    x = torch.empty(1, 2, 1, 8, device="meta")
    with pytest.raises(ValueError, match="has no kernel for torch.float32 on meta"):
        attend_tile(x, x, x, causal=True)
