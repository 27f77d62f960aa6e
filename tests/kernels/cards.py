"""Where tests of kernels run: on the card if there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from ahead_of_time import CARDS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

USUAL = 90
"""The card that every test run compiles for; the others take a minute each, so they are long."""

each_card = pytest.mark.parametrize(
    "card",
    [card if card == USUAL else pytest.param(card, marks=pytest.mark.long) for card in CARDS],
)
