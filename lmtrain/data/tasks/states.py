"""Tasks of state tracking: the product of all group elements so far, after every one of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.tasks.task import Examples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lmtrain.data.tasks.task import RowRandom


LARGEST_CYCLE = 1024
"""Elements of the largest cyclic group: its table has the square of that."""


@dataclass(frozen=True, kw_only=True)
class WordProblem:
    """Tokens are elements of a group, the target of each is the product up to it.

    ``Z2`` is parity and ``Zm`` counting modulo m, which eigenvalues of -1 or rotations solve
    (Grazzi et al. 2024, arXiv 2411.12537); ``A5`` and ``S5`` are beyond the circuits of linear
    recurrences with diagonal transitions (Merrill et al. 2024, arXiv 2404.08819).
    """

    group: str = "Z2"
    """``Zm``, ``Am`` or ``Sm``, with m a number."""
    groups = ("all",)

    @property
    def vocab_size(self) -> int:
        """Elements of the group."""
        return len(cayley(self.group))

    @property
    def shortest(self) -> int:
        """One element."""
        return 1

    def targets(self, length: int) -> int:
        """All."""
        return length

    def draw(self, random: RowRandom, length: int) -> Examples:
        """Every prefix is asked for."""
        table = cayley(self.group)
        tokens = random.integers(len(table), length)
        return Examples.of(tokens, prefix_products(table, tokens))


@cache
def cayley(group: str) -> NDArray[np.int64]:
    """``[n, n]``: the product of two elements, the first applied first; element 0 is the identity.

    Raises:
        ValueError: no such group.
    """
    kind, size = group[:1], int(group[1:]) if group[1:].isdecimal() else 0
    if kind == "Z" and 1 < size <= LARGEST_CYCLE:
        return np.add.outer(np.arange(size), np.arange(size)) % size
    if kind not in ("A", "S") or not 2 <= size <= 6:  # noqa: PLR2004  720 elements are enough
        raise ValueError(f"group={group} is none of Z2 to Z{LARGEST_CYCLE}, S2 to S6, A3 to A6")
    every = np.array([p for p in permutations(range(size)) if kind == "S" or _is_even(p)])
    codes = every @ size ** np.arange(size)
    order = np.argsort(codes)
    composed = np.stack([every[:, first] for first in every])  # [first, then, i]
    return order[np.searchsorted(codes, composed @ size ** np.arange(size), sorter=order)]


def prefix_products(table: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[rows, length]`` products of every prefix, by doubling (Hillis and Steele 1986)."""
    products, reach = tokens.copy(), 1
    while reach < tokens.shape[1]:
        products[:, reach:] = table[products[:, :-reach], products[:, reach:]]
        reach *= 2
    return products


def _is_even(permutation: tuple[int, ...]) -> bool:
    pairs = ((i, j) for i in range(len(permutation)) for j in range(i))
    return sum(permutation[i] < permutation[j] for i, j in pairs) % 2 == 0
