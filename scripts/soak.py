"""Kill a run and let it go on, again and again; measure what saving and restoring cost.

    python scripts/soak.py --cycles 200 --minutes 20     kills at random moments
    python scripts/soak.py --cycles 50 --ranks 2         one of two processes, or both
    python scripts/soak.py --overhead 30                 what saving costs, in turns of 30 steps
    python scripts/soak.py --restore-gb 1                how fast a checkpoint comes back

Each life of a run is a copy of this process, so that most of its time is training and saving. Exits
with 1 where a run that was killed ends with other parameters or another optimizer state.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from lmtrain.config import PrepareConfig, compose
from lmtrain.data.prepare import prepare
from lmtrain.train import checkpoint, manifest
from lmtrain.train.birth import birth
from lmtrain.train.engines import open_engine
from lmtrain.train.launch import launch
from lmtrain.train.saver import Saver

if TYPE_CHECKING:
    from lmtrain.config import RunConfig

STEPS, TURNS = 32, 3
TINY = (
    *("model.d_model=32", "model.attention.heads=2", "model.attention.kv_heads=1"),
    *("model.sliding_window.heads=2", "model.sliding_window.kv_heads=1"),
    *("model.mamba2.head_dim=16", "model.mamba2.state_dim=16"),
    *("model.gated_deltanet.key_heads=1", "model.gated_deltanet.value_heads=2"),
    *("model.gated_deltanet.key_dim=16", "model.gated_deltanet.value_dim=16"),
    *("curriculum.min_length=16", "curriculum.max_length=64", "curriculum.cycle_steps=4"),
    *("model.n_layers=4", "train.tokens_per_step=128", f"train.steps={STEPS}"),
    *("validation.every=null", "validation.tokens=64", "checkpoint.every=3"),
    *("samples.count=0", "engine.device=cpu", "launch.timeout_seconds=60"),
    "launch.threads=1",
)


def main() -> int:
    """Do what the arguments say; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=0, help="how many kills")
    parser.add_argument("--minutes", type=float, default=20.0, help="stop killing after this long")
    parser.add_argument("--ranks", type=int, default=1, help="processes of the run that is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--overhead", type=int, default=0, help="steps of a turn")
    parser.add_argument("--restore-gb", type=float, default=0.0, help="size of the checkpoint")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="soak") as name:
        folder = Path(name)
        store = text(folder) if asked.cycles or asked.overhead else []
        good = not asked.cycles or soak(folder, store, asked)
        if asked.overhead:
            overhead(folder, store, asked.overhead)
        if asked.restore_gb:
            restore(folder, asked.restore_gb)
    return 0 if good else 1


def text(folder: Path) -> list[str]:
    """Overrides that choose a store of random words."""
    random, texts = Random(0), folder / "texts"
    texts.mkdir()
    for number in range(120):
        words = random.choices(["alpha", "beta", "gamma", "delta"], k=random.choice([5, 20, 200]))
        (texts / f"{number}.txt").write_text(" ".join(words))
    prepare(PrepareConfig(input=str(texts), out=str(folder / "store"), tokenizer="bytes"))
    return ["data=store", f"data.source={folder / 'store'}", "data.val_fraction=0.1"]


def soak(folder: Path, store: list[str], asked: argparse.Namespace) -> bool:
    """Kill and go on; whether every finished run ends as the one that nobody killed."""
    overrides = [*store, *TINY]
    expected, victim = folder / "expected", folder / "victim"
    began = time.monotonic()
    finish(start([*overrides, f"run.dir={expected}"], asked.ranks))
    life = time.monotonic() - began
    random, kills, runs, good = Random(asked.seed), 0, 0, True
    end = time.monotonic() + 60 * asked.minutes
    while kills < asked.cycles and time.monotonic() < end:
        workers = start([*overrides, f"run.dir={victim}"], asked.ranks)
        time.sleep(random.random() * life / 2)
        number = random.choice([signal.SIGKILL] * 4 + [signal.SIGTERM])
        for worker in workers if random.random() < 1 / 2 else workers[-1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, number)
        kills += any(code != 0 for code in finish(workers))
        if (victim / "done").exists():
            runs += 1
            good &= same(victim, expected)
            shutil.rmtree(victim)
            print(f"{kills} kills, {runs} runs finished, all equal: {good}", flush=True)
    if victim.exists():
        finish(start([*overrides, f"run.dir={victim}"], asked.ranks))
        good, runs = good & same(victim, expected), runs + 1
    seconds = time.monotonic() - began
    print(f"{kills} kills in {runs} runs of {STEPS} steps, {seconds:.0f} s; bitwise equal: {good}")
    return good


def start(overrides: list[str], ranks: int) -> list[int]:
    """Begin or continue a run in processes of its own; their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    workers: list[int] = []
    for rank in range(ranks):
        worker = os.fork()
        if not worker:
            if ranks > 1:
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                os.environ["GLOO_SOCKET_IFNAME"] = "lo"
            _train(overrides)
        workers.append(worker)
    return workers


def _train(overrides: list[str]) -> None:
    """Train quietly and leave."""
    code = 1
    try:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        code = launch(compose(overrides))
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        os._exit(code)


def finish(workers: list[int]) -> list[int]:
    """Wait for all; their exit codes."""
    return [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]


def same(run: Path, other: Path) -> bool:
    """Whether the last checkpoints are whole and hold the same tensors."""
    folders = [checkpoint.path(each / "checkpoints", STEPS) for each in (run, other)]
    for folder in folders:
        manifest.check(folder)
    files = [sorted(folder.glob("*/*.safetensors")) for folder in folders]
    return len(files[0]) == len(files[1]) and all(map(_same_tensors, *files))


def _same_tensors(one: Path, other: Path) -> bool:
    with safe_open(one, "pt") as a, safe_open(other, "pt") as b:
        names = set(a.keys())
        return names == set(b.keys()) and all(
            torch.equal(a.get_tensor(name), b.get_tensor(name)) for name in names
        )


def overhead(folder: Path, store: list[str], steps: int) -> None:
    """Seconds of a turn without saving, and what saving beside and before the next step adds."""
    sizes = [
        *("model.d_model=256", "curriculum.max_length=256", "curriculum.min_length=256"),
        *(f"train.steps={steps}", "train.tokens_per_step=1024", "validation.every=null"),
        *("samples.count=0", "engine.device=cpu", "validation.tokens=256", "launch.threads=1"),
    ]
    every = ["checkpoint.every=5"]
    kinds = {
        "none": ["checkpoint.every=null"],
        "asynchronous": every,
        "waiting": [*every, "checkpoint.asynchronous=false"],
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(TURNS):
        for kind, keys in kinds.items():
            run = folder / f"{kind}{turn}"
            began = time.monotonic()
            finish(start([*store, *sizes, *keys, f"run.dir={run}"], 1))
            times[kind].append(time.monotonic() - began)
            size = sum(path.stat().st_size for path in run.glob("checkpoints/*1/**/*"))
            size = size or sum(p.stat().st_size for p in run.glob("checkpoints/**/*"))
            shutil.rmtree(run)
    base = statistics.median(times["none"])
    for kind, seconds in times.items():
        paired = [t / n - 1 for t, n in zip(seconds, times["none"], strict=True)]
        turns = " ".join(f"{100 * p:+.1f}" for p in paired)
        print(
            f"{kind}: {statistics.median(seconds):.2f} s for {steps} steps, "
            f"{100 * statistics.median(paired):+.1f} % (turns {turns})"
        )
    print(f"a step {base / steps * 1000:.0f} ms, a checkpoint {size / 1e6:.1f} MB every 5 steps")


def restore(folder: Path, gigabytes: float) -> None:
    """Write a checkpoint of about this size; verify and load it from the page cache."""
    width, layers = 1024, 1
    config = _sized(width, layers)
    block, rest = _parameters(_sized(width, 2)) - _parameters(config), 0
    rest = _parameters(config) - block
    layers = max(1, round((gigabytes * 1e9 / 12 - rest) / block))
    config = _sized(width, layers)
    engine = open_engine(config.engine, config.parallel, world=1)
    model, optimizer = birth(config, engine)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    engine.step(optimizer, lr=0.0, clip=None)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text("{}")
    saver = Saver(folder / "big", engine, config=config, tokenizer=tokenizer, tell=print)
    began = time.monotonic()
    saver.save(checkpoint.State(step=1, plan="", identity={}), model, optimizer)
    copied = time.monotonic() - began
    saver.finish(must=True)
    written, there = time.monotonic() - began, checkpoint.path(folder / "big", 1)
    size = sum(path.stat().st_size for path in there.rglob("*") if path.is_file())
    speeds: list[float] = []
    for _ in range(3):
        began, busy = time.monotonic(), time.process_time()
        manifest.check(there)
        verified = time.monotonic() - began
        engine.load(there, model, optimizer)
        seconds, busy = time.monotonic() - began, time.process_time() - busy
        speeds.append(size / seconds / 1e6)
        print(
            f"restored {size / 1e9:.2f} GB in {seconds:.2f} s, {verified:.2f} s of it verifying; "
            f"{busy:.2f} s of the processor's time: {size / busy / 1e6:.0f} MB/s on a free machine"
        )
    print(
        f"{statistics.median(speeds):.0f} MB/s; training waited {copied:.2f} s for the copy, the "
        f"disk had it after {written:.2f} s"
    )


def _sized(width: int, layers: int) -> RunConfig:
    return compose(
        [f"model.d_model={width}", f"model.n_layers={layers}", "model.pattern=A", *_CPU]
    ).resolved(4096)


_CPU = ("engine.device=cpu", "model.attention.heads=16", "model.attention.kv_heads=16")


def _parameters(config: RunConfig) -> int:
    from lmtrain.models.accounting import ModelCost

    return ModelCost.of(config.model).total.parameters


if __name__ == "__main__":
    sys.exit(main())
