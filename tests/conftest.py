"""What every test runs under."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes that tests start
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic products on a GPU

from typing import TYPE_CHECKING

import pytest
import torch
from runs import Run

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined

if TYPE_CHECKING:
    from pathlib import Path

torch.set_num_threads(1)
gc.set_threshold(50_000, 20, 100)  # what was imported is large, and searched by every collection


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors, but for one that only a card has. Ctrl-C is heard.

    Where a shell started the tests in the background it is ignored, by them and all they start.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if torch.cuda.is_available():
        config.addinivalue_line("filterwarnings", "ignore:.*[Dd]eterministic:UserWarning")


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
    # fills: torch.utils.deterministic; on a card some operations are not, which only warns
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a run of a second: every mixer, 8 steps, texts of six words as bytes."""
    from lmtrain.config import PrepareConfig
    from lmtrain.data.prepare import prepare

    folder, random = tmp_path_factory.mktemp("tiny"), Random(0)
    words = ["alpha", "beta", "gamma", "delta", "épsilon", "zeta"]
    (folder / "texts").mkdir()
    for number in range(120):
        text = " ".join(random.choices(words, k=random.choice([5, 10, 20, 40])))
        (folder / "texts" / f"{number}.txt").write_text(text)
    store, texts = str(folder / "store"), str(folder / "texts")
    prepare(PrepareConfig(input=texts, out=store, tokenizer="bytes"))
    return [
        *("data=store", f"data.source={store}", "data.val_fraction=0.1"),
        *("model.d_model=32", "model.attention.heads=2", "model.attention.kv_heads=1"),
        *("model.sliding_window.heads=2", "model.sliding_window.kv_heads=1"),
        "model.sliding_window.window=16",
        *("model.mamba2.head_dim=16", "model.mamba2.state_dim=16"),
        *("model.gated_deltanet.key_heads=1", "model.gated_deltanet.value_heads=2"),
        *("model.gated_deltanet.key_dim=16", "model.gated_deltanet.value_dim=16"),
        *("curriculum.min_length=16", "curriculum.max_length=64", "curriculum.cycle_steps=4"),
        *("train.steps=8", "train.tokens_per_step=256", "optim.warmup_steps=2"),
        *("validation.every=4", "validation.tokens=512", "checkpoint.every=3"),
        "logging.report=false",
        *("samples.count=1", "samples.tokens=4", "samples.prompt_tokens=8"),
    ]


@pytest.fixture
def run(tiny: list[str], tmp_path: Path) -> Run:
    """A tiny run that has not begun."""
    return Run(tmp_path / "run", tiny)


@pytest.fixture(scope="session")
def whole(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny run, trained without interruption; do not write into it."""
    whole = Run(tmp_path_factory.mktemp("whole") / "run", tiny)
    assert whole.train() == 0
    return whole
