"""A billion parameters go through in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from cases import checkpoint, seal

from lmtrain.config import compose
from lmtrain.export.trained import blank
from lmtrain.train.stored import write_shard

if TYPE_CHECKING:
    from pathlib import Path

EXPORT = """
import json, resource, sys, time
from lmtrain.export.export import export
from lmtrain.settings.export import ExportConfig
from lmtrain.train.stored import write_shard

start = time.perf_counter()
export(ExportConfig(checkpoint=sys.argv[1], out=sys.argv[2], verify=False))
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak": peak}))
"""
LIMIT = 4_000_000_000


@pytest.mark.long
def test_a_billion_parameters_need_less_memory_than_they_take(tmp_path: Path) -> None:
    run = compose(["model=hybrid_3to1", "model/size=1b"]).resolved(32_000)
    source = checkpoint(tmp_path / "checkpoint", run.model, {"nothing": torch.zeros(1)})
    wanted, random = blank(run.model), torch.Generator().manual_seed(0)
    contents = (torch.rand(x.shape, generator=random) for x in wanted.values())
    write_shard(source / "model" / "model-00001-of-00001.safetensors", wanted, contents)
    seal(source)
    command = [sys.executable, "-c", EXPORT, source, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200)
    told = json.loads(done.stdout.splitlines()[-1])
    size = sum(x.nbytes for x in wanted.values())
    print(done.stdout, f"{size / told['seconds'] / 1e6:.0f} MB/s of {size / 1e9:.2f} GB")
    assert size > LIMIT
    assert told["peak"] < LIMIT
