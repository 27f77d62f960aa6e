"""Launchers and schedulers start a run again by themselves, and it goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from forked import workers

if TYPE_CHECKING:
    from runs import Run

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 400


def begin(*command: str, where: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        text=True,
        stdout=pipe,
        stderr=subprocess.STDOUT,
        cwd=where,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", **environment},
    )


def wait_for(run: Run, step: int, process: subprocess.Popen[str]) -> None:
    """Until the run has reported ``step``."""
    metrics = run.folder / "metrics.jsonl"
    for _ in range(20 * PATIENCE_SECONDS):
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"step {step} never came: {process.communicate()[0]}")


def restarts(run: Run) -> int:
    """How often the run began, as its metrics tell."""
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return sum("started" in json.loads(line) for line in lines)


def same_losses(run: Run, whole: Run) -> None:
    assert run.losses == pytest.approx(whole.losses, rel=1e-5)
    ours, theirs = run.weights(8), whole.weights(8)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("launcher", ["lmtrain", "torchrun"])
def test_a_killed_worker_is_started_again(launcher: str, whole: Run, run: Run) -> None:
    train = ["-m", "lmtrain", "train", *run.overrides]
    own = [sys.executable, *train, "launch.nproc=2", "launch.restarts=1"]
    elastic = ["--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *elastic, *train]
    command = own if launcher == "lmtrain" else torchrun
    process = begin(*command, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    wait_for(run, 5, process)
    os.kill(workers(process.pid)[-1], signal.SIGKILL)
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, printed
    assert restarts(run) == 2, printed
    same_losses(run, whole)


def test_a_single_process_is_watched_too(whole: Run, run: Run) -> None:
    command = ["-m", "lmtrain", "train", *run.overrides, "launch.restarts=1"]
    process = begin(sys.executable, *command)
    wait_for(run, 5, process)
    os.kill(workers(process.pid)[-1], signal.SIGKILL)
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, printed
    assert run.metrics == whole.metrics
    assert run.same_state(whole)


def gone(pid: int) -> bool:
    """Whether a process has ended, even where nobody asks for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_workers_end_with_their_launcher_and_the_run_goes_on(run: Run) -> None:
    command = [sys.executable, "-m", "lmtrain", "train", *run.overrides, "launch.nproc=2"]
    process = begin(*command, "train.steps=100000", "validation.every=null")
    wait_for(run, 7, process)  # step 3 is on the disk before step 6 is written
    started = workers(process.pid)
    assert len(started) == 2
    process.kill()
    for _ in range(200):
        if all(map(gone, started)):
            break
        time.sleep(0.05)
    left = [pid for pid in started if not gone(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    printed, _ = process.communicate()
    assert not left, printed
    last = max(report["step"] for report in run.metrics)
    again = begin(*command, f"train.steps={last + 4}", "validation.every=null")
    printed, _ = again.communicate(timeout=PATIENCE_SECONDS)
    assert again.returncode == 0, printed
    assert "going on from " in printed
    assert (run.folder / "done").read_text() == f"{last + 4}\n"
    assert len(run.losses) == last + 4


def test_workers_that_outlive_their_grace_are_not_started_again(run: Run) -> None:
    more = ["train.steps=100000", "validation.every=null", "launch.nproc=2", "launch.restarts=3"]
    more += ["launch.grace_seconds=0.001", "launch.requeue_code=75"]
    process = begin(sys.executable, "-m", "lmtrain", "train", *run.overrides, *more)
    wait_for(run, 5, process)
    process.send_signal(signal.SIGUSR1)
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 75, printed
    assert "it leaves with what is saved" in printed
    assert restarts(run) == 1


SCONTROL = """#!/bin/sh
case $1 in
    show) echo localhost ;;
    requeue) echo "$2" >> requeued ;;
esac
"""


def test_slurm_puts_a_pre_empted_job_into_the_queue_again(
    whole: Run, run: Run, tmp_path: Path
) -> None:
    """`scripts/slurm.sh`, with an scontrol that notes what it is asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("scontrol", SCONTROL), ("srun", '#!/bin/sh\nexec "$@"\n')):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PORT": port,
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
    }
    overrides = [each for each in run.overrides if not each.startswith("run.dir=")]
    run.folder = tmp_path / "runs" / "42"
    script = ["bash", str(ROOT / "scripts" / "slurm.sh"), *overrides]
    process = begin(*script, where=tmp_path, **environment)
    wait_for(run, 4, process)
    process.send_signal(signal.SIGUSR1)
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, printed
    assert (tmp_path / "requeued").read_text() == "42\n", printed
    assert not (run.folder / "done").exists()
    again = begin(*script, where=tmp_path, SLURM_RESTART_COUNT="1", **environment)
    printed, _ = again.communicate(timeout=PATIENCE_SECONDS)
    assert again.returncode == 0, printed
    assert (tmp_path / "requeued").read_text() == "42\n"
    same_losses(run, whole)


def test_a_host_is_lost_and_comes_back(whole: Run, run: Run) -> None:
    """Its link goes down first, so that it can say nothing to the other host."""
    reached = f"grep -q 'step.: 5,' {run.folder / 'metrics.jsonl'}"
    command = [str(ROOT / "scripts" / "two_hosts.sh"), "--lose", reached, "--", "--max-restarts=3"]
    process = begin(*command, "-m", "lmtrain", "train", *run.overrides, "launch.timeout_seconds=20")
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, printed
    if "nothing is run" in printed:
        pytest.skip(printed)
    assert "host 2 is back" in printed
    assert "lmtrain: process 0 of 2: another process " in printed
    assert restarts(run) == 2, printed
    same_losses(run, whole)


def test_a_host_that_is_done_is_not_lost() -> None:
    command = [str(ROOT / "scripts" / "two_hosts.sh"), "--lose", "false", "--"]
    process = begin(*command, "--no-python", "true")
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, printed
    assert "lost" not in printed
