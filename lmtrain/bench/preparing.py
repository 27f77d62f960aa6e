"""Preparation against the bare tokenizer, and against ``datasets``, on the same texts.

Ours is all of ``lmtrain prepare``: reading JSON lines, tokenising, hashing, writing and checking
the store. The bare tokenizer has the texts in memory and keeps nothing. ``datasets`` reads the
Arrow file that it made of the texts before, and writes the ids as Arrow. Nobody has seen the texts
before: a tokenizer remembers words, and one that did the same texts a second time would be faster
by a tenth.
"""

from __future__ import annotations

import io
import json
import shutil
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lmtrain.bench.turns import Process, Turn, compare, timed
from lmtrain.data.choice import Choice
from lmtrain.data.encoding import batched, is_blank
from lmtrain.data.hub import dataset_of
from lmtrain.data.inputs import find_inputs
from lmtrain.data.manifest import Manifest
from lmtrain.data.prepare import prepare, trained
from lmtrain.data.prepare_config import PrepareConfig
from lmtrain.data.sampling import spread_texts
from lmtrain.data.stdlib import stdlib_texts
from lmtrain.data.tokenize import load_tokenizer, sample
from lmtrain.data.units import plan_units
from lmtrain.data.workers import ONE_CORE, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenizers import Tokenizer

    from lmtrain.bench.config import BenchConfig
    from lmtrain.bench.turns import Result

PARTS = 8
"""Files of texts for each core, so that all have about as much to do."""

LEAST_RATIO = 0.9
"""Of our speed to that of the bare tokenizer."""


def measure_preparation(config: BenchConfig) -> tuple[list[Result], list[str]]:
    """Tokens a second and core, on one core and on all, and what could not be measured."""
    cores, notes = usable_cores(), list[str]()
    if not config.peers or not find_spec("datasets"):
        reason = "it is not installed" if config.peers else "peers=false"
        notes.append(f"datasets is not measured: {reason}")
    if cores == 1:
        notes.append("preparation on all cores is not measured: there is one")
    with TemporaryDirectory(prefix="lmtrain-bench-") as name:
        folder = Path(name)
        write_texts(folder, config, parts=PARTS * cores)
        results = [
            result
            for count in dict.fromkeys((1, cores))
            for result in _on_cores(folder, count, config)
        ]
    return results, notes


def write_texts(folder: Path, config: BenchConfig, *, parts: int) -> None:
    """Texts of the input as JSON lines in so many files of ``folder/texts``, and a tokenizer."""
    texts = [text for text in _texts(config) if not is_blank(text)]
    (folder / "texts").mkdir()
    for part in range(parts):
        lines = [json.dumps({"text": text}) for text in texts[part::parts]]
        if lines:
            path = folder / "texts" / f"{part:05d}.jsonl"
            path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    wanted = PrepareConfig(input=str(folder / "texts"), tokenizer=config.tokenizer, out="none")
    units = plan_units(find_inputs(wanted), field="text")
    with redirect_stderr(io.StringIO()):
        tokenizer = Choice.of(wanted, trained(wanted, units)).tokenizer
    tokenizer.save(str(folder / "tokenizer.json"))


def _texts(config: BenchConfig) -> list[str]:
    """About ``characters`` of the input, spread over it; all if it has fewer."""
    if config.input is None:
        every = list(stdlib_texts())
        share = config.characters / sum(map(len, every))
        return list(sample(every, share)) or every[:1]
    wanted = PrepareConfig(input=config.input, out="none")
    units, dataset = plan_units(find_inputs(wanted), field="text"), dataset_of(wanted)
    found = list(spread_texts(units, config.characters, field="text", dataset=dataset))
    if not any(not is_blank(text) for text in found):
        raise ValueError(f"input={config.input} has no text: give another file or folder")
    return found


def _on_cores(folder: Path, cores: int, config: BenchConfig) -> list[Result]:
    threads = {"RAYON_NUM_THREADS": str(cores), "TOKENIZERS_PARALLELISM": str(cores > 1).lower()}
    builders = {"lmtrain": (ONE_CORE, ours), "tokenizers": (threads, bare)}
    if config.peers and find_spec("datasets"):
        builders["datasets"] = ({**ONE_CORE, "HF_HUB_OFFLINE": "1"}, hub_map)
    with ExitStack() as stack:
        contenders = {
            name: stack.enter_context(Process(environment, build, folder, cores))
            for name, (environment, build) in builders.items()
        }
        what = f"preparation, {cores} core{'s' * (cores > 1)}"
        found = compare(what, contenders, config, unit="tokens/s/core", cores=cores)
    return with_target(found)


def with_target(results: list[Result]) -> list[Result]:
    """The same, ours with the speed that the bare tokenizer, the second one, asks of it.

    Raises:
        RuntimeError: they did not find the same number of tokens.
    """
    mine, *others = results
    for other in others:
        if other.amount != mine.amount:
            raise RuntimeError(
                f"{other.contender} made {other.amount:,} tokens of the texts, and "
                f"{mine.contender} {mine.amount:,}: they did not do the same work"
            )
    bare_value = mine.value / mine.speed_over(others[0])
    return [replace(mine, target=LEAST_RATIO * bare_value), *others]


def ours(folder: Path, workers: int) -> Callable[[], Turn]:
    """All of ``lmtrain prepare``."""
    out = folder / f"store-{workers}"
    wanted = PrepareConfig(
        input=str(folder / "texts"),
        tokenizer=str(folder / "tokenizer.json"),
        out=str(out),
        workers=workers,
    )

    def run() -> int:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            prepare(wanted)
        counts = Manifest.read(out).counts
        return counts.tokens - counts.documents  # without the ends of texts

    def turn() -> Turn:
        shutil.rmtree(out, ignore_errors=True)
        return timed(run)

    return turn


def bare(folder: Path, cores: int) -> Callable[[], Turn]:  # noqa: ARG001  the environment has it
    """``encode_batch_fast``, in batches as large as ours."""
    lines = (line for path in _files(folder) for line in path.read_text("utf-8").splitlines())
    batches = list(batched(json.loads(line)["text"] for line in lines))

    def run(tokenizer: Tokenizer) -> int:
        return sum(
            sum(map(len, tokenizer.encode_batch_fast(batch, add_special_tokens=False)))
            for batch in batches
        )

    def turn() -> Turn:
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        tokenizer.encode_special_tokens = True
        return timed(partial(run, tokenizer))

    return turn


def hub_map(folder: Path, cores: int) -> Callable[[], Turn]:
    """``Dataset.map`` with as many processes."""
    datasets: Any = import_module("datasets")
    compute: Any = import_module("pyarrow.compute")
    datasets.disable_progress_bars()
    cache = folder / f"datasets-{cores}"
    files = [str(path) for path in _files(folder)]
    data = datasets.Dataset.from_json(files, cache_dir=str(cache))

    def encode(batch: dict[str, list[str]], tokenizer: Tokenizer) -> dict[str, list[list[int]]]:
        tokenizer.encode_special_tokens = True  # is lost on the way to another process
        encodings = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"ids": [encoding.ids for encoding in encodings]}

    def turn() -> Turn:
        out = cache / "mapped"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        found: list[Any] = []
        tokenizer = load_tokenizer(folder / "tokenizer.json")

        def run() -> int:
            found[:] = [
                data.map(
                    encode,
                    batched=True,
                    fn_kwargs={"tokenizer": tokenizer},
                    remove_columns=data.column_names,
                    num_proc=cores if cores > 1 else None,
                    cache_file_name=str(out / "ids.arrow"),
                    load_from_cache_file=False,
                    new_fingerprint="ids",
                )
            ]
            return 0

        seconds = timed(run).seconds
        ids = found[0].data.column("ids")
        return Turn(seconds, compute.sum(compute.list_value_length(ids)).as_py())

    return turn


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "texts").iterdir())
