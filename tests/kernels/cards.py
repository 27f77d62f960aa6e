"""Where tests of kernels run: on the card if there is one, else in Triton's interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from ahead_of_time import CARDS

if TYPE_CHECKING:
    from collections.abc import Iterable

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

USUAL = 90
"""The card that every test run compiles for; the others take a minute each, so they are long."""

each_card = pytest.mark.parametrize(
    "card",
    [card if card == USUAL else pytest.param(card, marks=pytest.mark.long) for card in CARDS],
)


def each_case(
    names: Iterable[str], dtypes: Iterable[torch.dtype], *, long: tuple[str, torch.dtype]
) -> pytest.MarkDecorator:
    """Every case in every dtype, one of which takes so long that only long runs have it."""
    dtypes = list(dtypes)
    marked = [
        pytest.param(*pair, marks=[pytest.mark.long] if pair == long else [])
        for name in names
        for pair in ((name, dtype) for dtype in dtypes)
    ]
    return pytest.mark.parametrize(("name", "dtype"), marked, ids=str)
