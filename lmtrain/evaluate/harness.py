"""``lmtrain eval harness.tasks=[...]``: lm-evaluation-harness on an exported folder."""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from lmtrain.config import require
from lmtrain.data.tokenize import load_tokenizer
from lmtrain.evaluate.evaluate import default_out, write
from lmtrain.extras import needed
from lmtrain.settings.engine import Precision
from lmtrain.train.engines import choose_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.settings.evaluate import EvalConfig

RULER = re.compile(r"ruler")
"""Tasks that may draw forever; those called ``niah_`` say themselves what does not fit."""
EXAMPLE_TOKENS = 500
"""RULER's variable tracking puts an example of at most so many before its question, in steps of
`EXAMPLE_STEP` sentences; its question has at least twice as many."""
EXAMPLE_STEP = 5
ANSWER_TOKENS = 30
DRAWS = 8
"""Its rows are random: the longest of so many is taken."""
ROOM = 256
"""Tokens beyond the row: it counts what is generated, but not what opens the answer."""


def ask(config: EvalConfig) -> list[dict[str, Any]]:
    """Print and write what the tasks find. One record for each task and metric.

    Raises:
        ValueError: the configuration has problems; lm-evaluation-harness or transformers is missing
            or too old; the folder is no export, or brings code that may not run; a task is unknown,
            or its data is not here.
    """
    require([*config.check(1), *_problems(config)])
    assert config.checkpoint is not None
    folder = Path(config.checkpoint)
    needed("transformers")
    needed("lm_eval")
    check_folder(folder, trusted=config.harness.trust_remote_code)
    if not config.harness.online:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    lengths = config.lengths or [4096]
    if any(RULER.match(task) for task in config.harness.tasks):
        check_tokenizer(folder, min(lengths))
    found = list(records(_run(config, folder, lengths)))
    out = Path(config.out) if config.out else default_out(folder)
    device = choose_device(config.device).type
    write(out, found, checkpoint=folder, config=config, device=device)
    console = Console()
    console.print(_table(found, title=str(folder)))
    console.print(f"written to {out}", markup=False, highlight=False)
    return found


def check_folder(folder: Path, *, trusted: bool) -> None:
    """See that a folder is an export, and runs no code that was not allowed.

    RULER's tasks load its tokenizer with ``trust_remote_code=True``, whatever the user says.

    Raises:
        ValueError: it is not, or would, or a file of it cannot be read.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"checkpoint={folder} is no exported folder: lmtrain export checkpoint={folder} "
            "out=FOLDER, then checkpoint=FOLDER"
        )
    if trusted:
        return
    for path in sorted(folder.glob("*.json")):
        if asks_for_code(path):
            raise ValueError(
                f"{path} asks for code that lies in the folder: if you trust it, say "
                "harness.trust_remote_code=true"
            )


def asks_for_code(path: Path) -> bool:
    """Whether a JSON file names code to run, at any depth and however the key is spelled.

    Raises:
        ValueError: it is no JSON, of which nobody knows what it asks for.
    """
    named: list[bool] = []
    try:
        json.loads(
            path.read_text("utf-8"), object_hook=lambda each: named.append("auto_map" in each)
        )
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}): export the folder again") from error
    return any(named)


def check_tokenizer(folder: Path, shortest: int) -> None:
    """See that the smallest rows of RULER fit.

    Its variable tracking never ends where they do not.

    Raises:
        ValueError: the tokenizer is missing, or takes too many tokens for them.
    """
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    from lm_eval.tasks.ruler.vt_utils import generate_input_output

    def tokens(sentences: int, *, example: bool) -> int:
        """Of the longest of some rows, its answer included."""
        texts: list[str] = []
        while len(texts) < DRAWS:
            with suppress(IndexError):  # two of its random names were equal: it draws again too
                text, answer = generate_input_output(sentences, 1, 4, is_icl=example)
                texts.append(f"{text} {answer}")
        return ANSWER_TOKENS + max(len(each.ids) for each in tokenizer.encode_batch(texts))

    examples = [tokens(n * EXAMPLE_STEP, example=True) for n in range(1, 7)]
    if examples[0] > EXAMPLE_TOKENS:
        raise ValueError(
            f"the tokenizer of {folder} takes {examples[0]} tokens for the shortest example of "
            f"RULER, which must fit {EXAMPLE_TOKENS}: use a tokenizer of a larger vocabulary, or "
            "tasks called niah_"
        )
    example = max(each for each in examples if each <= EXAMPLE_TOKENS)
    least = tokens(2 * EXAMPLE_STEP, example=False) + example
    if least > shortest:
        raise ValueError(
            f"with the tokenizer of {folder} RULER's example and its shortest question take "
            f"{least} tokens, more than a row of {shortest}: choose lengths of at least {least}"
        )


def records(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The scores of ``simple_evaluate``, one for each task and metric.

    RULER calls a metric by the length of its rows, and gives -1 for lengths that were not asked.
    """
    for task, metrics in found["results"].items():
        for key, score in metrics.items():
            metric, _, how = key.partition(",")
            if not how or metric.endswith("_stderr") or not isinstance(score, Real):
                continue
            length = int(metric) if metric.isdecimal() else None
            if length and score < 0:
                continue
            error = metrics.get(f"{metric}_stderr,{how}")
            yield {
                "what": "harness",
                "task": task,
                "length": length,
                "metric": "matches" if length else metric,
                "score": float(score),
                "stderr": float(error) if isinstance(error, Real) else None,
                "rows": found["n-samples"].get(task, {}).get("effective"),
            }


def _problems(config: EvalConfig) -> list[str]:
    """What does not go together with the tasks of another library."""
    problems: list[str] = []
    if config.what or config.task:
        problems.append(
            "harness.tasks asks lm-evaluation-harness, what and task ask lmtrain: say one of them"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        problems.append("harness.tasks runs in one process: leave torchrun out")
    return problems


def _run(config: EvalConfig, folder: Path, lengths: list[int]) -> dict[str, Any]:
    from lm_eval import tasks
    from lm_eval.evaluator import simple_evaluate

    asked = config.harness
    metadata: Any = {"max_seq_lengths": lengths, "pretrained": str(folder)}
    manager = tasks.TaskManager(
        **_where(Path(tasks.__file__).parent, asked.tasks),
        metadata=metadata,
    )
    for task in asked.tasks:
        if task not in manager.all_tasks:
            near = get_close_matches(task, manager.all_tasks, n=3) or ["lm_eval ls tasks"]
            raise ValueError(f"harness.tasks={task} is no task of it: see {', '.join(near)}")
    half = config.precision is not Precision.fp32
    try:
        found: Any = simple_evaluate(
            model="hf",
            model_args={
                "pretrained": str(folder),
                "backend": "causal",
                "dtype": "bfloat16" if half else "float32",
                "trust_remote_code": asked.trust_remote_code,
                **({"max_length": max(lengths) + ROOM} if config.lengths else {}),
            },
            tasks=list(asked.tasks),
            task_manager=manager,
            limit=asked.limit,
            batch_size=asked.batch,
            device=str(choose_device(config.device)),
            log_samples=False,
        )
    except (OSError, LookupError) as error:
        if isinstance(error, KeyError | IndexError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"harness.tasks={asked.tasks} needs data that is not here ({reason}): say "
            "harness.online=true to fetch it, or put it into the cache of Hugging Face or nltk"
        ) from error
    return found


def _where(tasks: Path, names: list[str]) -> dict[str, Any]:
    """The folders of these tasks, as reading all 14,000 files takes minutes; all if one is missing.

    A group may name tasks of its own folder only, so that a group is looked up among all.
    """
    wanted, found = {f"task: {name}" for name in names}, dict[str, Path]()
    for path in tasks.rglob("*.yaml"):
        lines = wanted & set(path.read_text("utf-8", errors="replace").splitlines())
        found |= dict.fromkeys(lines, path.parent)
    if found.keys() != wanted:
        return {}
    return {"include_path": sorted(set(found.values())), "include_defaults": False}


def _table(found: list[dict[str, Any]], title: str) -> Table:
    headings = [key for key in found[0] if key != "what"] if found else []
    table = Table(*(heading.replace("_", " ") for heading in headings), title=title)
    for each in found:
        cells = ("" if each[key] is None else each[key] for key in headings)
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells))
    return table
