"""`scripts/gpu_check.sh` before it meets a card: its limits, and a Python that plays the card's."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.sh"
PYTHON = """#!/bin/bash
case "$*" in
    *cuda.is_available*) {card} ;;
    *"lmtrain train"*)
        for word in "$@"; do [ "${{word%%=*}}" != run.dir ] || run=${{word#*=}}; done
        for step in $(seq 60); do
            echo '{{"loss": '$((100 - step))', "tokens_per_second": 1, "mfu": null}}'
        done > "$run/metrics.jsonl"
        echo $$ > "$run/pid"
        touch "$run/checkpoints/large"
        trap '{on_term}' TERM
        while true; do sleep 0.1; done
        ;;
    *bench*) echo "bench is run" ;;
    *) exec python3 "$@" ;;
esac
"""


def check(
    folder: Path, *parts: str, card: str = "echo True", on_term: str = "exit 143"
) -> subprocess.CompletedProcess[str]:
    """The script, with a Python that does as it is told."""
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(PYTHON.format(card=card, on_term=on_term))
    python.chmod(0o755)
    environment = {"PATH": f"{python.parent}:{os.environ['PATH']}", "OUT": str(folder / "out")}
    command = ["bash", str(SCRIPT), *parts]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def running(process: str) -> bool:
    """Whether it is there, and no zombie."""
    words = Path("/proc", process, "cmdline")
    return words.exists() and words.read_text() != ""


def test_all_parts_end_before_ten_minutes() -> None:
    text = SCRIPT.read_text()
    limits = dict(re.findall(r"\[(\w+)\]=(\d+)", text))
    [parts] = re.findall(r"\|\| parts=\((.*)\)", text)
    assert len(parts.split()) > 3
    assert sum(int(limits[part]) for part in parts.split()) < 590


def test_no_card_is_no_failure_but_no_torch_is(tmp_path: Path) -> None:
    for name, card, code, told in (
        ("without", "echo False", 0, "There is no GPU"),
        ("broken", "exit 1", 2, "cannot import torch"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        done = check(folder, "step", card=card)
        assert done.returncode == code
        assert told in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("on_term", ["exit 143", "true"])
def test_training_is_stopped_with_its_metrics_in_place(tmp_path: Path, on_term: str) -> None:
    """Also where it does not listen, and then it is gone before the next part begins."""
    done = check(tmp_path, "train=21", "plan", on_term=on_term)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 steps: loss 97.000 to 49.500" in done.stdout
    assert "bench is run" in done.stdout
    run = tmp_path / "out" / "train"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 60
    assert not (run / "checkpoints").exists()
    assert not running((run / "pid").read_text().strip())
