"""Every stack, and a process of transformers that is asked about its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from cases import CUSTOM, NATIVE, weights
from safetensors.torch import load_file, save_file

from lmtrain.export.verify import logits
from lmtrain.settings.export import Home

if TYPE_CHECKING:
    from lmtrain.models.config import ModelConfig

QUICK = {
    *("llama", "olmo3", "qwen3_5 own", "olmo_hybrid", "granite nope", "nemotron", "mamba2"),
    *("falcon_h1", "falcon_h1 own", "custom side by side without norms"),
    *("custom all four", "custom side by side", "custom no MLP", "custom G"),
    *("llama yarn", "llama linear", "qwen3 yarn", "olmo3 yarn", "custom yarn and linear"),
    *("llama llama3", "custom llama3 and yarn"),
}
"""Cases that are asked about in every test run; between them they hold every rewrite."""
TOKENS = 100
PATIENCE_SECONDS = 900


def stacks() -> dict[str, tuple[Home, ModelConfig]]:
    """Every case, and where it goes."""
    native = {name: (Home.native, model) for name, (_, model) in NATIVE.items()}
    return native | {f"custom {name}": (Home.custom, model) for name, model in CUSTOM.items()}


def ask(jobs: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """The answers of a process that cannot import lmtrain."""
    said, out = folder / "jobs.json", folder / "answers.json"
    said.write_text(json.dumps(jobs))
    program = Path(__file__).parent / "battery.py"
    subprocess.run(
        [sys.executable, "-P", program, said, out],
        check=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "HF_HOME": str(folder / "home")},
    )
    return json.loads(out.read_text())


def job(name: str, folder: Path, root: Path, *, long: bool = False) -> dict[str, Any]:
    """A line of the battery: the folder, and the logits of the weights as they were drawn."""
    home, model = stacks()[name]
    tokens = torch.randint(257, (TOKENS,), generator=torch.Generator().manual_seed(1))
    expected = root / f"{folder.parent.name}.safetensors"
    save_file({"logits": logits(model, tokens, weights(model).__getitem__)}, expected)
    return {
        "folder": str(folder),
        "tokens": tokens.tolist(),
        "expected": str(expected),
        "code": home is Home.custom,
        # transformers 5.23 cuts the convolution of OLMo Hybrid into three equal parts when it saves
        "save": not name.startswith("olmo_hybrid"),
        "long": long,
    }


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}
