"""Proof that a folder computes what was trained: a fresh process without lmtrain reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lmtrain.export.targets import letters
from lmtrain.export.weights import stored
from lmtrain.extras import needed
from lmtrain.layout import SequenceLayout
from lmtrain.models.decoder import Decoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lmtrain.export.links import Link
    from lmtrain.models.config import ModelConfig
    from lmtrain.train.stored import Read

OUTSIDE = Path(__file__).parent / "outside"
TOKENS, MOST_TOKENS = 160, 1024
"""Of the row that is compared: over two chunks, and beyond the window if that is not far.

Transformers multiplies positions in fp32, which a much longer row would show.
"""
TOLERANCE = 1e-5
"""Largest relative error of fp32 logits (norm of the difference over the norm)."""
PATIENCE_SECONDS = 3600


def verify(
    folder: Path, model: ModelConfig, read: Read, *, vocabulary: int, code: bool = False
) -> float:
    """The relative error of the logits that ``folder`` gives.

    Args:
        folder: for transformers.
        model: the stack.
        read: its tensors, as they were trained or rounded.
        vocabulary: tokens below this are compared.
        code: the folder brings our code, which may run.

    Raises:
        ValueError: transformers cannot load it, or computes something else.
    """
    generator = torch.Generator().manual_seed(0)
    window = model.sliding_window.window if "W" in letters(model) else 0
    length = min(max(TOKENS, window + TOKENS // 2), MOST_TOKENS)
    tokens = torch.randint(vocabulary, (length,), generator=generator)
    theirs = reload(folder, tokens, code=code)
    ours = logits(model, tokens, read)
    error = ((theirs - ours).norm() / ours.norm()).item()
    if not error <= TOLERANCE:
        raise ValueError(
            f"{folder} gives other logits than the trained model: relative error {error:.1e}, "
            f"allowed {TOLERANCE:.0e}"
        )
    return error


def reload(folder: Path, tokens: Tensor, *, code: bool) -> Tensor:
    """The logits that a fresh process without lmtrain gives.

    Raises:
        ValueError: transformers cannot load the folder, is too old, or is not there.
    """
    needed("transformers", otherwise="verify=false")
    with tempfile.TemporaryDirectory() as scratch:
        said, out = Path(scratch) / "tokens.json", Path(scratch) / "logits.safetensors"
        said.write_text(json.dumps(tokens.tolist()))
        # Packages may come by PYTHONPATH; lmtrain, which may too, is barred by the program.
        command = [sys.executable, "-P", str(OUTSIDE / "reload.py"), folder, said, out]
        try:
            done = subprocess.run(
                [*command, *(["code"] if code else [])],
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE_SECONDS,
                env=_environment(scratch),
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"{folder} took transformers over an hour: say verify=false"
            ) from error
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2]
            raise ValueError(f"{folder} cannot be loaded by transformers: {reason}")
        return load_file(out)["logits"]


@torch.no_grad()
def logits(config: ModelConfig, tokens: Tensor, read: Read) -> Tensor:
    """``[t, vocab]`` in fp32, with the tensors of one block in memory at a time."""
    with torch.device("meta"):
        model = Decoder(config)
    layout = SequenceLayout.of_lengths([len(tokens)])
    x = read("embedding.weight")[tokens].float()
    for i, block in enumerate(model.blocks):
        x = _filled(block, f"blocks.{i}.", read)(x, layout)
        block.to("meta")
    x = _filled(model.norm, "norm.", read)(x)
    head = read("embedding.weight" if model.head is None else "head.weight")
    return x @ head.float().T


def rounded(links: Iterable[Link], read: Read, dtype: torch.dtype) -> Read:
    """Our tensors as a folder of ``dtype`` holds them, read back through its table."""
    by_name = {name: each for each in links for name in each.ours}

    def look_up(name: str) -> Tensor:
        each = by_name[name]
        theirs = each.rewrite.out(tuple(read(ours) for ours in each.ours))
        back = each.rewrite.back(tuple(stored(x, dtype).float() for x in theirs))
        return back[each.ours.index(name)]

    return look_up


def _filled(module: nn.Module, prefix: str, read: Read) -> nn.Module:
    named = {name: read(prefix + name).float() for name, _ in module.named_parameters()}
    module.load_state_dict(named, assign=True)
    return module


def _environment(scratch: str) -> dict[str, str]:
    """The caller's, with a home of its own: code of a folder is copied there before it runs."""
    return {**os.environ, "HF_HOME": scratch, "PYTHONWARNINGS": "ignore"}
