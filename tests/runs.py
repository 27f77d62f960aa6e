"""A tiny run, and what it leaves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lmtrain.config import compose, read
from lmtrain.models.decoder import Decoder
from lmtrain.train.launch import launch
from lmtrain.train.tensors import model_tensors, read_tensors

if TYPE_CHECKING:
    from pathlib import Path

CLOCKED = {
    *("tokens_per_second", "data_wait", "forward_backward", "update"),
    *("memory", "sp_bytes"),
}
"""Fields of a report that runs of any number of processes need not share."""


class Run:
    """A run folder, and the overrides that lead to it."""

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder = folder
        self.overrides = [*overrides, f"run.dir={folder}"]

    def train(self, *more: str) -> int:
        """Train in this process; the exit code."""
        return launch(compose([*self.overrides, *more]))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """What was reported of steps, without what the clock decides."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        reports = [json.loads(line) for line in lines]
        return [
            {k: v for k, v in r.items() if k not in CLOCKED} for r in reports if "started" not in r
        ]

    @property
    def losses(self) -> list[float]:
        """Of every step."""
        return [report["loss"] for report in self.metrics if "loss" in report]

    def weights(self, step: int) -> dict[str, Tensor]:
        """The parameters of a checkpoint, by however many processes it was written."""
        folder = self.folder / "checkpoints" / f"step_{step:08d}"
        with torch.device("meta"):
            model = Decoder(read(folder / "config.yaml").model)
        model.to_empty(device="cpu")
        read_tensors(folder / "model", model_tensors(model))
        return model_tensors(model)

    def same_state(self, other: Run) -> bool:
        """Whether the last checkpoints of two finished runs of one process agree bitwise."""
        ours, theirs = self._stored(), other._stored()
        return ours.keys() == theirs.keys() and all(
            torch.equal(tensor, theirs[name]) for name, tensor in ours.items()
        )

    def _stored(self) -> dict[str, Tensor]:
        """Parameters and optimizer state."""
        files = self.folder.glob("checkpoints/step_00000008/*/*.safetensors")
        return {name: tensor for file in files for name, tensor in load_file(file).items()}

    def files(self, pattern: str) -> dict[str, bytes]:
        """Contents by name."""
        found = self.folder.glob(pattern)
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in found if p.is_file()}
