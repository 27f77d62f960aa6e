"""What the examination of a machine finds."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from lmtrain.config import compose
from lmtrain.doctor import doctor, examine
from lmtrain.doctor.cards import kernels
from lmtrain.ops.config import Backend

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from lmtrain.doctor.findings import Problem

CARD = "NVIDIA H100 80GB HBM3, 81559, {used}, 9.0, Enabled, {errors}, 550.54.15"


def problems(*overrides: str) -> list[Problem]:
    """Of every part."""
    found = examine(compose(overrides))
    assert {part.title for part in found if part.facts} >= {"versions", "kernels", "host", "disks"}
    return [problem for part in found for problem in part.problems]


def driver(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, used: int = 0, errors: int = 0
) -> None:
    """A driver's tool that sees one card."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{CARD.format(used=used, errors=errors)}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_this_machine_can_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(compose([f"run.dir={tmp_path}/run"])) == 0
    shown = capsys.readouterr().out
    for word in ("torch", "/dev/shm", "open files", "run.dir", "ops.backend=auto"):
        assert word in shown


def test_what_stops_a_run_is_told_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert doctor(compose([f"run.dir={tmp_path}/file/run", "ops.backend=fla"])) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "stops a run: run.dir=" in shown
    assert "choose another" in shown
    assert "say ops.backend=torch" in shown


def test_a_backend_that_nobody_asked_for_only_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(backend: Backend, _: int | None) -> list[str]:
        if backend is Backend.fla:
            return [
                "ops.backend=fla, but fla is not installed: pip install x, or say ops.backend=torch"
            ]
        return [f"ops.backend={backend} needs CUDA, and there is none: say ops.backend=torch"]

    monkeypatch.setattr("lmtrain.ops.config.backend_problems", refused)
    told = dict(kernels(compose(["ops.backend=torch"])).facts)
    assert told["fla"] == "cannot run: fla is not installed; pip install x"
    assert told["flash_qla"] == "cannot run: needs CUDA, and there is none"


def test_a_damaged_file_of_links_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "links.json").write_text("{")
    told = problems(f"parallel.links={tmp_path}/links.json")
    assert any(p.stops and "cannot be read as JSON" in p.sentence for p in told)


def test_a_card_that_torch_does_not_see_stops_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, monkeypatch, used=5000, errors=3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    told = {p.sentence: p.stops for p in problems()}
    [unseen] = [s for s in told if "the driver sees 1 GPUs and torch none" in s]
    [errors] = [s for s in told if "3 uncorrected memory errors" in s]
    [busy] = [s for s in told if "5000 MiB in use" in s]
    assert (told[unseen], told[errors], told[busy]) == (True, True, False)


def test_an_interface_that_is_not_there_stops_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere7")
    told = [p for p in problems() if "GLOO_SOCKET_IFNAME=nowhere7" in p.sentence]
    assert [p.stops for p in told] == [True]
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert not any("GLOO_SOCKET_IFNAME" in p.sentence for p in problems())


def test_a_host_without_an_address_is_told_unless_an_interface_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert any("has no address" in p.sentence for p in problems())
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert not any("has no address" in p.sentence for p in problems())


def test_small_shared_memory_and_few_files_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmtrain.doctor.host.SHARED", 2**60)
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 1024))
    told = [p.sentence for p in problems("launch.nproc=4096", "train.tokens_per_step=4194304")]
    assert any("--shm-size=8g" in sentence for sentence in told)
    assert any("ulimit -n 1024" in sentence for sentence in told)
    assert any("launch.nproc=4096 is more than the" in sentence for sentence in told)
