"""The loader against torch's, on the same pieces, and against the loader of OLMo-core.

Every contender reads in this process, with what it does by default; ours reads ahead in one thread.
The first turns are not timed, so the tokens are in the page cache.
"""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from itertools import chain, islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lmtrain.bench.turns import Result, Turn, compare, timed
from lmtrain.data.config import DataConfig
from lmtrain.data.curriculum_config import CurriculumConfig, CurriculumName, ViewName
from lmtrain.data.loader import Loader
from lmtrain.data.plan import Plan
from lmtrain.data.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lmtrain.bench.config import BenchConfig
    from lmtrain.data.store import Store

TOKENS_PER_SECOND, FROM_LENGTH = 50e6, 1024
"""What we ask of ourselves, from this length on."""

OLMO_LENGTHS = 256, 32_768
"""From its default on, and up to what its 16-bit lengths can say."""


def measure_loader(config: BenchConfig) -> tuple[list[Result], list[str]]:
    """Tokens a second of one process by length, and what could not be measured."""
    store = open_store(DataConfig(source=config.data_source))
    results, notes = list[Result](), list[str]()
    for length in config.piece_lengths:
        for view in (ViewName.decompose, ViewName.best_fit):
            try:
                results += _at(store, length, view, config)
            except ValueError as error:  # the store has no such pieces
                notes.append(f"loader, {view} at {length:,} is not measured: {error}")
    mixed, missing = _mixed(store, config)
    return [*results, *mixed], [*notes, *missing]


def _at(store: Store, length: int, view: ViewName, config: BenchConfig) -> list[Result]:
    curriculum = CurriculumConfig(
        name=CurriculumName.fixed,
        view=view,
        min_length=min(length, config.min_length),
        max_length=length,
    )
    per_step = max(length, config.row)
    plan = Plan.build(store, curriculum, seed=0, tokens_per_step=per_step)
    steps = max(1, config.tokens // per_step)
    contenders = {"lmtrain": reading(store, plan, steps)}
    if view == ViewName.decompose and config.peers:
        contenders["DataLoader"] = plain_reading(store, plan, steps)
    kind = "pieces" if view == ViewName.decompose else "packed"
    target = TOKENS_PER_SECOND if length >= FROM_LENGTH else None
    return compare(f"loader, {kind} {length:,}", contenders, config, unit="tokens/s", target=target)


def reading(store: Store, plan: Plan, steps: int) -> Callable[[], Turn]:
    """Our loader over the first steps of a plan."""

    def turn() -> Turn:
        with Loader(store, plan, stop=steps) as loader:
            return timed(lambda: sum(len(row.tokens) for rows in loader for row in rows))

    return turn


class Pieces(Dataset[tuple["Tensor", "Tensor"]]):
    """Tokens and targets, piece by piece, from a map of the first shard: the plainest way."""

    def __init__(self, store: Store, plan: Plan) -> None:
        [bucket] = plan.buckets
        shard = store.manifest.shards[0]
        self._length = bucket.length
        self._starts = bucket.starts[bucket.starts + bucket.length < shard.tokens]
        self._tokens = np.memmap(
            store.folder / shard.token_file.file, store.manifest.dtype, mode="r"
        )

    def __len__(self) -> int:
        """How many pieces."""
        return len(self._starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """``[length]`` int64 both."""
        start = self._starts[index]
        tokens = self._tokens[start : start + self._length + 1].astype(np.int64)
        return torch.from_numpy(tokens[:-1]), torch.from_numpy(tokens[1:])


def plain_reading(store: Store, plan: Plan, steps: int) -> Callable[[], Turn]:
    """As many batches of torch's loader, in a random order, epoch after epoch."""
    pieces = Pieces(store, plan)
    count = min(len(pieces), plan.tokens_per_step // plan.lengths[0])
    order = torch.Generator().manual_seed(0)
    loader = DataLoader(pieces, batch_size=count, shuffle=True, drop_last=True, generator=order)

    def run() -> int:
        epochs = chain.from_iterable(repeat(loader))
        return sum(tokens.numel() for tokens, _ in islice(epochs, steps))

    return lambda: timed(run)


def _mixed(store: Store, config: BenchConfig) -> tuple[list[Result], list[str]]:
    """All lengths in their natural order, beside OLMo-core's loader of dataset decomposition."""
    shortest, longest = max(config.min_length, OLMO_LENGTHS[0]), OLMO_LENGTHS[1]
    longest = min(config.max_length, longest, config.row)
    if shortest >= longest:
        told = f"max_length={config.max_length} and {config.row} tokens leave fewer than two"
        return [], [f"loader, all lengths, is not measured: {told} lengths from {shortest} on"]
    curriculum = CurriculumConfig(
        name=CurriculumName.natural, min_length=shortest, max_length=longest
    )
    try:
        plan = Plan.build(store, curriculum, seed=0, tokens_per_step=config.row)
    except ValueError as error:
        return [], [f"loader, all lengths, is not measured: {error}"]
    steps = max(1, config.tokens // config.row)
    contenders, notes = {"lmtrain": reading(store, plan, steps)}, list[str]()
    with ExitStack() as stack:
        if not config.peers or not find_spec("olmo_core"):
            reason = "ai2-olmo-core is not installed" if config.peers else "peers=false"
            notes.append(f"OLMo-core's loader of variable lengths is not measured: {reason}")
        else:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="lmtrain-bench-")))
            contenders["OLMo-core"] = olmo_reading(store, curriculum, config.row, steps, folder)
        what = f"loader, {shortest:,} to {longest:,}"
        return compare(what, contenders, config, unit="tokens/s"), notes


def olmo_reading(
    store: Store, curriculum: CurriculumConfig, per_step: int, steps: int, folder: Path
) -> Callable[[], Turn]:
    """As many batches of OLMo-core's loader, on the same token files."""
    data: Any = import_module("olmo_core.data")
    loaders: Any = import_module("olmo_core.data.data_loader")
    paths = [store.folder / shard.token_file.file for shard in store.manifest.shards]
    dataset = data.NumpyVSLDataset(
        *paths,
        pad_token_id=store.end_of_text,
        eos_token_id=store.end_of_text,
        vocab_size=store.vocab_size,
        min_sequence_length=curriculum.min_length,
        max_sequence_length=curriculum.max_length,
        dtype=np.dtype(store.manifest.dtype).type,
    )
    dataset.work_dir = folder
    dataset.prepare()
    loader = loaders.NumpyVSLDataLoader(
        dataset,
        collator=data.DataCollator(pad_token_id=store.end_of_text),
        global_batch_size=per_step,
        work_dir=folder,
    )
    epochs = iter(range(1, 1 << 30))

    def turn() -> Turn:
        batches = chain.from_iterable(_epoch(loader, next(epochs)) for _ in repeat(None))
        return timed(lambda: sum(b["input_ids"].numel() for b in islice(batches, steps)))

    return turn


def _epoch(loader: Any, number: int) -> Any:
    loader.reshuffle(epoch=number, in_memory=True)
    return loader
