"""What every test runs under."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes that tests start

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan(request: pytest.FixtureRequest) -> Iterator[None]:
    """``torch.empty`` holds NaN, so that a number nobody wrote cannot pass for a result."""
    if request.node.get_closest_marker("gpu"):
        yield
        return
    torch.use_deterministic_algorithms(True)  # fills: torch.utils.deterministic
    yield
    torch.use_deterministic_algorithms(False)
