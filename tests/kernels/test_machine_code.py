"""Kernels as a card would run them: their machine code, emulated, against their naive forms."""

from __future__ import annotations

import pytest
from emulation import failures

KINDS = [
    *(
        "gated_delta",
        "wide_delta",
        "ssd",
        "short_conv",
        "gated_norm",
        "rms_norm",
        "add_norm",
        "l2_norm",
    ),
    *("gates", "swiglu", "rotary", "span", "model"),
]


@pytest.mark.slow
def test_a_case_of_each_kernel() -> None:
    assert failures("machine_code_cases", "checks", "90", "quick") == {}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("card", ["80", "90"])
def test_every_case(card: str, kind: str) -> None:
    assert failures("machine_code_cases", "checks", card, kind) == {}
