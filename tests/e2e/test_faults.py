"""Processes die, disks fill up, files rot: what was learned up to the last checkpoint stays."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from forked import fork, instead, kill_at_call, places, ranks, wait
from runs import Run

from lmtrain.config import compose
from lmtrain.train import checkpoint, manifest, saver
from lmtrain.train.engines import LocalEngine
from lmtrain.train.folder import RunFolder
from lmtrain.train.manifest import Manifest
from lmtrain.train.opening import open_run
from lmtrain.train.tensors import Snapshot
from lmtrain.train.trainer import Training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA context cannot be forked")

KILLED = -signal.SIGKILL


def same(run: Run, whole: Run) -> None:
    """The same reports and, bit for bit, the same parameters and optimizer."""
    assert run.metrics == whole.metrics
    assert run.same_state(whole)
    for folder in (run.folder / "checkpoints").iterdir():
        manifest.check(folder)  # every file, and none that is left over


# A process is killed.

MOMENTS: dict[str, tuple[Any, str, int, int]] = {
    "while it computes": (Training, "update", 5, 3),
    "before shards are written": (Snapshot, "write", 2, 3),
    "before they are durable": (saver, "sync", 12, 3),
    "before the manifest": (Manifest, "write", 4, 3),
    "before the checkpoint has its name": (saver._Writing, "_seal", 2, 3),
    "after it": (checkpoint, "retain", 2, 6),
}
"""What is called, the number of the call in the second checkpoint, and the step that stays."""


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_goes_on_from_the_last_checkpoint(
    moment: str, whole: Run, run: Run
) -> None:
    owner, name, number, step = MOMENTS[moment]
    beside = f"checkpoint.asynchronous={name != 'update'}"  # else it may not have been written yet
    with instead(owner, name, kill_at_call(number)):
        assert wait(fork(lambda: run.train(beside))) == KILLED
    assert open_run(compose(run.overrides)).first_step == step
    assert run.train() == 0
    same(run, whole)


@pytest.mark.slow
def test_killed_twice_in_a_row_while_it_begins_again(whole: Run, run: Run) -> None:
    with instead(Training, "update", kill_at_call(5)):  # behind step 3, which must be on the disk
        assert wait(fork(lambda: run.train("checkpoint.asynchronous=false"))) == KILLED
    for name in ("load", "step"):
        with instead(LocalEngine, name, kill_at_call(1)):
            assert wait(fork(run.train)) == KILLED
    assert run.train() == 0
    same(run, whole)


@pytest.fixture(scope="module")
def pair(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny run, trained without interruption by two processes."""
    pair = Run(tmp_path_factory.mktemp("pair") / "run", [*tiny, "checkpoint.every=2"])
    assert ranks(2, pair.train) == [0, 0]
    return pair


def same_pair(run: Run, pair: Run) -> None:
    assert run.metrics == pair.metrics
    one, other = run.weights(8), pair.weights(8)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.slow
def test_one_of_two_processes_is_killed_while_it_saves(
    pair: Run, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    run.overrides.append("checkpoint.every=2")
    with instead(Snapshot, "write", kill_at_call(2, rank=1)):
        codes = ranks(2, lambda: run.train("launch.timeout_seconds=20"))
    assert codes == [1, KILLED]
    assert "process 0 of 2: another process is gone, at " in capfd.readouterr().err
    assert open_run(compose(run.overrides)).first_step == 2
    assert ranks(2, run.train) == [0, 0]
    same_pair(run, pair)


@pytest.mark.slow
def test_a_process_that_does_not_answer_is_given_up(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    def sleepy(original: Callable[..., Any], self: Training, index: int, batches: list) -> Any:
        if index == 2 and self.engine.rank == 1:
            time.sleep(12)
        return original(self, index, batches)

    with instead(Training, "update", sleepy):
        codes = ranks(2, lambda: run.train("launch.timeout_seconds=3"))
    assert codes[0] == 1
    told = "process 0 of 2: another process did not answer within launch.timeout_seconds, at step 3"
    assert told in capfd.readouterr().err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_meets_nobody_says_so(
    rank: int, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    place = places(2)[rank]
    assert wait(fork(lambda: run.train("launch.timeout_seconds=1"), **place)) == 1
    told = f"process {rank} of 2: another process was not there within launch.timeout_seconds ("
    said = capfd.readouterr().err
    assert told in said
    assert "Traceback" not in said


# A scheduler wants the machine back.


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_within_the_grace_and_leaves_to_be_queued_again(
    number: int, whole: Run, run: Run
) -> None:
    def interrupted(original: Callable[..., Any], self: Training, index: int, batches: list) -> Any:
        if index == 4:
            signal.raise_signal(number)
        return original(self, index, batches)

    with instead(Training, "update", interrupted):
        assert run.train("launch.grace_seconds=100", "launch.requeue_code=75") == 75
    assert open_run(compose(run.overrides)).first_step == 5
    assert run.train() == 0
    same(run, whole)


def test_a_step_that_takes_longer_than_the_grace_is_left(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    def stuck(original: Callable[..., Any], self: Training, index: int, batches: list) -> Any:
        if index == 4:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(60)
        return original(self, index, batches)

    began = time.monotonic()
    with instead(Training, "update", stuck):
        overrides = ("launch.grace_seconds=0.5", "checkpoint.asynchronous=false")
        child = fork(lambda: run.train(*overrides))
    assert wait(child) == 128 + signal.SIGUSR1
    assert time.monotonic() - began < 30
    told = "still at step 5 launch.grace_seconds=0.5 after SIGUSR1"
    assert told in capfd.readouterr().err
    assert open_run(compose(run.overrides)).first_step == 3


# Files rot.


@pytest.fixture(scope="module")
def begun(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that stopped behind its checkpoints of steps 3 and 6."""
    begun = Run(tmp_path_factory.mktemp("begun") / "run", tiny)
    with instead(Training, "update", kill_at_call(8)):
        assert wait(fork(lambda: begun.train("checkpoint.asynchronous=false"))) == KILLED
    return begun


@pytest.fixture
def stopped(begun: Run, run: Run) -> Run:
    """The same in a folder of its own."""
    shutil.copytree(begun.folder, run.folder)
    return run


class Trap:
    """What must never be unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def shard(step: Path) -> Path:
    return next((step / "model").glob("*.safetensors"))


def truncate(step: Path) -> None:
    os.truncate(shard(step), shard(step).stat().st_size - 1)


def flip(step: Path) -> None:
    content = bytearray(shard(step).read_bytes())
    content[-7] ^= 4
    shard(step).write_bytes(content)


def lose(step: Path) -> None:
    shard(step).unlink()


def pickle_beside(step: Path) -> None:
    trap = pickle.dumps(Trap(str(step.parents[2] / "executed")))
    (step / "model" / ".metadata").write_bytes(trap)


def pickle_inside(step: Path) -> None:
    trap = pickle.dumps(Trap(str(step.parents[2] / "executed")))
    shard(step).write_bytes(trap)
    listed = json.loads((step / "manifest.json").read_text())
    entry = manifest.Entry.of(shard(step))
    listed["files"][shard(step).relative_to(step).as_posix()] = vars(entry)
    (step / "manifest.json").write_text(json.dumps(listed))


def link(step: Path) -> None:
    outside = step.parents[2] / "outside.safetensors"
    shard(step).rename(outside)
    (step / "model" / outside.name).symlink_to(outside)
    outside.with_suffix(".txt").write_text("stays")


def link_whole(step: Path) -> None:
    outside = step.parents[2] / "outside"
    step.rename(outside)
    step.symlink_to(outside)


def leave(step: Path) -> None:
    text = (step / "manifest.json").read_text().replace("state.json", "../../../state.json")
    (step / "manifest.json").write_text(text)


def cut_manifest(step: Path) -> None:
    os.truncate(step / "manifest.json", 100)


def edit_state(step: Path) -> None:
    text = (step / "state.json").read_text().replace('"step": 6', '"step": 5')
    (step / "state.json").write_text(text)


SEEN: dict[Callable[[Path], None], str] = {
    truncate: "bytes and had",
    lose: "is missing",
    pickle_beside: "is not in manifest.json",
    link: "is missing",
    link_whole: "is a link",
    leave: "is no path inside its folder",
    cut_manifest: "is damaged",
    edit_state: "does not have the contents that were written",
}
"""Damage that is seen before any process speaks to another."""


@pytest.mark.parametrize("damage", SEEN)
def test_damage_is_seen_and_named(damage: Callable[[Path], None], stopped: Run) -> None:
    newest = checkpoint.path(stopped.folder / "checkpoints", 6)
    damage(newest)
    opened = open_run(compose(stopped.overrides))
    assert opened.first_step == 3
    assert list(opened.damaged) == [newest]
    assert SEEN[damage] in opened.damaged[newest]
    if not newest.is_symlink():
        with pytest.raises(ValueError, match="give checkpoint= another step folder"):
            checkpoint.find(stopped.folder)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip, lose, link_whole])
def test_the_newest_whole_checkpoint_is_used(
    damage: Callable[[Path], None], stopped: Run, whole: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(checkpoint.path(stopped.folder / "checkpoints", 6))
    outside = {path: path.stat().st_mtime for path in stopped.folder.parent.rglob("outside*/*")}
    assert stopped.train() == 0
    printed = capsys.readouterr().out
    assert "step_00000006" in printed.partition(": set aside\n")[0]
    assert f"going on from {stopped.folder}/checkpoints/step_00000003\n" in printed
    aside = stopped.folder / "checkpoints" / "step_00000006.damaged"
    assert os.path.lexists(aside)
    assert outside == {path: path.stat().st_mtime for path in outside}
    aside.unlink() if aside.is_symlink() else shutil.rmtree(aside)
    same(stopped, whole)


def test_what_is_loaded_is_never_executed(stopped: Run) -> None:
    pickle_inside(checkpoint.path(stopped.folder / "checkpoints", 6))
    with pytest.raises(ValueError, match="cannot be read"):
        stopped.train()
    assert not (stopped.folder.parent / "executed").exists()


def test_a_run_without_a_whole_checkpoint_is_not_begun_anew(stopped: Run) -> None:
    for step in (3, 6):
        lose(checkpoint.path(stopped.folder / "checkpoints", step))
    with pytest.raises(ValueError, match="no checkpoint is whole: .*00000006.*is missing; .*00003"):
        open_run(compose(stopped.overrides))


# Another run writes between our first look into the folder and our claim.


def beforehand(work: Callable[[], Any]) -> Callable[..., Any]:
    """For `instead`: ``work`` where rank 0 claims a folder for the first time."""
    first = iter([work])

    def other(original: Callable[..., Any], *args: Any) -> Any:
        next(first, lambda: None)()
        return original(*args)

    return other


def stop_at(run: Run, step: int) -> int:
    """Train until a signal stops it; the exit code."""

    def interrupted(original: Callable[..., Any], self: Training, index: int, batches: list) -> Any:
        if index + 1 == step:
            signal.raise_signal(signal.SIGTERM)
        return original(self, index, batches)

    with instead(Training, "update", interrupted):
        return run.train()


@pytest.mark.parametrize(("ours", "theirs"), [(0, 2), (2, 5), (2, 8)])
def test_it_goes_on_from_what_another_run_wrote_before_the_claim(
    ours: int, theirs: int, whole: Run, run: Run
) -> None:
    if ours:
        stop_at(run, ours)
    with instead(RunFolder, "claimed", beforehand(lambda: stop_at(run, theirs))):
        assert run.train() == 0
    same(run, whole)


@pytest.mark.slow
def test_every_process_goes_on_from_there(
    pair: Run, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    run.overrides.append("checkpoint.every=2")
    there = "checkpoints/step_00000006"

    def written() -> None:
        time.sleep(2)  # the other process has long looked
        shutil.copytree(pair.folder / there, run.folder / there)

    with instead(RunFolder, "claimed", beforehand(written)):
        assert ranks(2, run.train) == [0, 0]
    assert f"going on from {run.folder / there}" in capfd.readouterr().out
    assert run.metrics == [report for report in pair.metrics if report["step"] > 6]


# The disk is full.


@pytest.fixture
def small_disk(run: Run) -> Iterator[Callable[[int], None]]:
    """Makes the run folder a file system of so many KiB."""
    run.folder.mkdir()

    def resize(size: int) -> None:
        mounted = run.folder.is_mount()
        again = ["-o", f"remount,size={size}k"] if mounted else ["-o", f"size={size}k"]
        command = ["mount", "-t", "tmpfs", *again, "tmpfs", str(run.folder)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            pytest.skip("file systems cannot be mounted here")

    yield resize
    if run.folder.is_mount():
        subprocess.run(["umount", str(run.folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_only_the_last_checkpoint(
    whole: Run, run: Run, small_disk: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [path.stat().st_size for path in whole.folder.glob("checkpoints/*8/**/*")]
    small_disk(int(1.6 * sum(sizes) / 1024))
    with pytest.raises(
        ValueError, match="step_00000008 was not written .*No space left.*make room"
    ):
        run.train("samples.count=0")
    printed = capsys.readouterr().out
    assert "step_00000006 was not written (process 0: No space left on device)" in printed
    assert "training goes on" in printed
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["step_00000003"]
    assert run.losses == whole.losses
    small_disk(8 * sum(sizes) // 1024)
    assert run.train() == 0
    same(run, whole)
