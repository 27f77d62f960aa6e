"""The command line: ``lmtrain VERB [overrides]``.

Hydra's own ``@hydra.main`` serves every verb, so its flags work as its users expect. Nothing here
imports torch before a verb needs it.
"""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmtrain import __version__
from lmtrain.sentence import in_quotes, sentence

if TYPE_CHECKING:
    from omegaconf import DictConfig

HELP = """\
lmtrain pretrains long-context language models that mix attention and recurrence.

Begin with
  lmtrain train                              a small hybrid learns the embedded text, in minutes
  lmtrain generate checkpoint=runs/default   it writes
  lmtrain report run=runs/default            its curves, on one page
  lmtrain inspect model=hybrid_3to1          memory and time of a run, before it

Verbs
{verbs}

Overrides follow the verb, as many as you like
  optim.lr=1e-3                sets a key
  model=samba model/size=160m  chooses files of configs/
  'model.pattern=(GGGA)2'      holds brackets, so it is quoted for the shell
  -m optim.lr=1e-3,3e-3        runs every combination, each in its own folder below run.dir
  -m +sweep=hybrid_ratio       runs those of a file of configs/sweep: ratios, placements, seeds

See before you run
  lmtrain VERB --help          the groups and their options, every key, its value and meaning
  lmtrain VERB --help optim    all about the keys that begin so
  lmtrain VERB --cfg job       what these overrides make of it

Completion in bash, fish and zsh
  eval "$(lmtrain -sc install=bash)"

LMTRAIN_TRACEBACK=1 shows where an error comes from.
"""

TEXTS = (
    *("prompt", "samples.prompt", "model.pattern", "pattern"),
    *("run.dir", "run.weights", "distill.teacher", "data.cache", "data.source"),
    *("data.sources.*.path", "data.validation.*"),
    *("checkpoint", "run", "folder", "input", "out", "tokenizer"),
    *("begin_of_text", "end_of_text"),
)
"""Keys whose values are text or paths, in which brackets and commas mean nothing to Hydra."""
_PATTERN = re.compile(r"[AWMGawmg0-9()\[\]-]+")


def _train(config: Any) -> int:
    from lmtrain.train.launch import launch

    return launch(config)


def _prepare(config: Any) -> int:
    from lmtrain.data.modes import run_mode

    run_mode(config)
    return 0


def _generate(config: Any) -> int:
    from lmtrain.evaluate.generate import generate

    generate(config)
    return 0


def _eval(config: Any) -> int:
    if config.harness.tasks:
        from lmtrain.evaluate.harness import ask as evaluate
    else:
        from lmtrain.evaluate.evaluate import evaluate
    evaluate(config)
    return 0


def _export(config: Any) -> int:
    from lmtrain.export.export import export

    export(config)
    return 0


def _import(config: Any) -> int:
    from lmtrain.export.importing import import_folder

    import_folder(config)
    return 0


def _inspect(config: Any) -> int:
    from rich.console import Console

    from lmtrain.inspect import inspect

    Console().print(inspect(config))
    return 0


def _doctor(config: Any) -> int:
    from lmtrain.doctor import doctor

    return doctor(config)


def _report_runs(config: Any) -> int:
    from lmtrain.report import report

    report(config)
    return 0


def _bench(config: Any) -> int:
    match config.what:
        case "sp":
            from lmtrain.bench.parallel import bench_strategies as bench
        case "rows":
            from lmtrain.bench.rows import bench_rows as bench
        case "links":
            from lmtrain.bench.links import bench_links as bench
        case "data":
            from lmtrain.bench.data import bench_data as bench
        case "curriculum":
            from lmtrain.bench.curriculum import bench_curriculum as bench
        case "memory":
            from lmtrain.bench.footprint import bench_memory as bench
        case _:
            from lmtrain.bench.step import bench
    bench(config)
    return 0


@dataclass(frozen=True)
class Verb:
    """One word of the command line: the config it composes and the function that takes it."""

    does: str
    config: str
    run: Callable[[Any], int]
    takes: tuple[str, ...] = ()
    """Keys that words without one are likely to be meant for."""


VERBS = {
    "prepare": Verb(
        "text files to a token store, and tools on stores", "prepare", _prepare, ("input", "out")
    ),
    "train": Verb("pretrain; the same command continues a run", "config", _train),
    "generate": Verb("text from a checkpoint", "generate", _generate, ("checkpoint",)),
    "eval": Verb("scores of a checkpoint, by length and position", "eval", _eval, ("checkpoint",)),
    "export": Verb(
        "a checkpoint as a folder that transformers loads", "export", _export, ("checkpoint", "out")
    ),
    "import": Verb(
        "a folder of transformers as a checkpoint", "import", _import, ("folder", "out")
    ),
    "inspect": Verb("what a run needs on given machines, before it", "inspect", _inspect),
    "doctor": Verb("what of this machine helps or hinders a training", "config", _doctor),
    "report": Verb("a run, or several, as one page and in words", "report", _report_runs, ("run",)),
    "bench": Verb("speed of a step, of strategies, of links, of data", "bench", _bench),
}


def main() -> None:
    """Run the verb of the command line; the exit code is 2 for a user's mistake."""
    # Threads that sleep while they wait: spinning ones halve the speed of a machine in other use.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    match sys.argv[1:]:
        case [] | ["-h" | "--help" | "help"]:
            print(help_text())
        case ["--version"]:
            print(__version__)
        case ["-sc" | "--shell_completion", *_]:
            _complete()
        case [name, *_] if name in VERBS:
            del sys.argv[1]
            sys.exit(_report(lambda: _through_hydra(name)))
        case [name, *_]:
            near = get_close_matches(name, VERBS, n=1)
            hint = f"do you mean {near[0]}?" if near else f"the verbs are {', '.join(VERBS)}"
            sys.exit(_fail(f"there is no verb {name}: {hint}"))


def help_text() -> str:
    """What ``lmtrain`` alone prints."""
    return HELP.format(verbs="\n".join(f"  {name:<10} {v.does}" for name, v in VERBS.items()))


def _through_hydra(name: str) -> int:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from lmtrain.config import config_dir, typed
    from lmtrain.help import show, split

    verb, trains = VERBS[name], name == "train"
    asked, sys.argv[1:] = split(sys.argv[1:])
    run = verb.run if asked is None else partial(show, name, verb.does, asked)

    @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=verb.config)
    def job(composed: DictConfig) -> int:
        settings = HydraConfig.get()
        match settings.mode:
            case RunMode.MULTIRUN if trains:
                from lmtrain.sweep.point import run_point

                return run_point(
                    composed, Path(settings.runtime.output_dir), settings.overrides.task
                )
            case RunMode.MULTIRUN:
                return verb.run(typed(composed))  # Hydra tells which one raised
            case _ if trains and asked is None and settings.sweeper.params:
                sys.exit(_fail("+sweep and +experiment run several trainings: add -m"))
            case _:
                code = _report(lambda: run(typed(composed)))
                return sys.exit(code) if code else 0

    sweeps = bool({"-m", "--multirun"} & set(sys.argv))
    sys.argv[1:] = map(choices_quoted if sweeps else quoted, sys.argv[1:])
    if sweeps and trains and not any(word.startswith("hydra/sweeper=") for word in sys.argv):
        overrides = (i for i, word in enumerate(sys.argv) if "=" in word and word[0] not in "-/")
        sys.argv.insert(next(overrides, len(sys.argv)), "hydra/sweeper=lmtrain")
    # From 3.14 on argparse reads help when an argument is added. A flag of Hydra has one that is
    # no text until it is asked for (https://github.com/facebookresearch/hydra/issues/3121).
    ArgumentParser._check_help = lambda *_: None  # pyright: ignore[reportAttributeAccessIssue]
    _require_keys(verb)
    job()
    return 0


def _require_keys(verb: Verb) -> None:
    """See that all words are flags of Hydra or say a key.

    Raises:
        ValueError: with what may be meant.
    """
    from hydra._internal.utils import get_args_parser

    parsed, others = get_args_parser().parse_known_args()
    if flags := [word for word in others if word.startswith("-")]:
        raise ValueError(f"there is no flag {flags[0]}: keys are KEY=VALUE, and --help lists them")
    if bare := [word for word in parsed.overrides if "=" not in word and word[:1] != "~"]:
        meant = " ".join(f"{key}={word}" for key, word in zip(verb.takes, bare, strict=False))
        hint = f"say {meant}" if meant else "--help lists the keys"
        raise ValueError(f"'{' '.join(bare)}' is no KEY=VALUE: {hint}")


def quoted(word: str) -> str:
    """The same override, its value in quotes if it is text and not quoted yet."""
    key, _, value = word.partition("=")
    is_text = any(fnmatchcase(key.lstrip("+"), text) for text in TEXTS)
    several = key == "run" and value.startswith("[")
    if not is_text or several or value in ("", "null") or value[0] in "'\"":
        return word
    return f"{key}={in_quotes(value)}"


def choices_quoted(word: str) -> str:
    """The same choices of a sweep, patterns with brackets in quotes: to Hydra these mean lists."""
    key, _, value = word.partition("=")
    choices = value.split(",")
    if key.lstrip("+") != "model.pattern" or not all(map(_PATTERN.fullmatch, choices)):
        return word
    told = (in_quotes(choice) if set(choice) & set("[]()") else choice for choice in choices)
    return f"{key}={','.join(told)}"


def _report(work: Callable[[], int]) -> int:
    """The exit code of ``work``; a user's mistake becomes a sentence."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing a traceback
    try:
        return work()
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        if os.environ.get("LMTRAIN_TRACEBACK") == "1":
            raise
        return _fail(sentence(error))
    except ChildProcessError as error:
        return _fail(str(error), code=1)
    except BrokenPipeError:  # who read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as shells say of SIGPIPE
    except KeyboardInterrupt:
        return _fail("interrupted", code=130)


def _fail(message: str, *, code: int = 2) -> int:
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"lmtrain: {message}", file=sys.stderr)
    return code


def _complete() -> None:
    """Shell completion: the verbs first, then Hydra completes the overrides of that verb."""
    words = os.environ.get("COMP_LINE", "").split()
    at_end = os.environ.get("COMP_LINE", "").endswith(" ")
    verb = "train"
    if sys.argv[2:3] and sys.argv[2].startswith("query="):
        if len(words) + at_end < 3:  # noqa: PLR2004  the verb itself is not finished
            print(" ".join(VERBS))
            return
        if words[1] not in VERBS:
            return
        verb = words[1]
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]]) + " " * at_end
    _through_hydra(verb)
