"""What an engine cannot do is said before any process starts."""

from __future__ import annotations

import re

import pytest

from lmtrain.config import compose
from lmtrain.settings import engine as settings


@pytest.mark.parametrize(
    ("overrides", "world", "words"),
    [
        (["engine.kind=deepspeed", "engine.zero=4"], 2, r"engine\.zero=4.*1, 2 or 3"),
        (["engine.kind=deepspeed"], 2, r"engine\.zero=None.*1, 2 or 3"),
        (["engine.zero=1"], 2, r"engine\.zero=1 is of engine\.kind=deepspeed.*leave it out"),
        (["engine.replicas=3"], 4, r"engine\.replicas=3 must divide the 4 processes"),
        (["engine.replicas=0"], 4, r"engine\.replicas=0 must divide"),
        (["engine=ddp", "engine.replicas=2"], 2, r"engine\.replicas=2 is of engine\.kind=fsdp"),
        (["engine=ddp", "engine.prefetch=3"], 2, r"engine\.prefetch=3 is of engine\.kind=fsdp"),
        (["engine.gather=bf16"], 2, r"engine\.gather=bf16 would round.*engine\.precision=bf16"),
        (["engine=ddp", "engine.gather=bf16", "engine.precision=bf16"], 2, r"of engine\.kind=fsdp"),
        (["engine.prefetch=-1"], 2, r"engine\.prefetch=-1 must not be negative"),
        (["engine=ddp", "engine.offload=parameters"], 2, r"not what ddp can do.*fsdp or deepspeed"),
        (["engine.offload=optimizer"], 2, r"not what fsdp can do: say parameters"),
        (["engine.offload=parameters"], 1, r"needs an engine of several processes"),
        (
            ["engine=deepspeed_zero2", "engine.offload=parameters"],
            2,
            r"engine\.offload=parameters needs engine\.zero=3, and it is 2",
        ),
        (["engine=deepspeed_zero1", "optim.kind=muon"], 2, r"optim\.kind=muon.*engine\.kind=fsdp"),
        (["engine=deepspeed_zero1", "faults.policy=skip"], 2, r"faults\.policy=skip.*policy=abort"),
        (["optim.kind=muon", "optim.muon_momentum=1"], 1, r"optim\.muon_momentum=1.*\[0, 1\)"),
    ],
)
def test_one_mistake_is_one_sentence(overrides: list[str], world: int, words: str) -> None:
    config = compose(["engine.device=cpu", f"train.tokens_per_step={2**16}", *overrides])
    [problem] = [p for p in config.check(world) if "data." not in p]
    assert re.search(words, problem)


def test_deepspeed_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda _: None)
    config = compose(["engine.device=cpu", "engine=deepspeed_zero2"])
    assert not config.engine.check(1, world=1), "one process needs none"
    [problem] = config.engine.check(2, world=2)
    assert "pip install 'lmtrain[deepspeed]'" in problem
