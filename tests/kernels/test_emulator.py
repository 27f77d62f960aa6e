"""The emulator of machine code: its arithmetic is right, and it finds what a card would suffer."""

from __future__ import annotations

import pytest
from emulation import failures

each_card = pytest.mark.parametrize("card", ["90", pytest.param("80", marks=pytest.mark.long)])


@pytest.mark.slow
@each_card
def test_products_and_faults(card: str) -> None:
    assert failures("emulator_cases", "quick", card) == {}


@pytest.mark.long
@pytest.mark.parametrize("card", ["80", "90"])
def test_every_product(card: str) -> None:
    assert failures("emulator_cases", "products", card, "all") == {}
