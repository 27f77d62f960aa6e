"""The step benchmark: contenders of one size, and a run of it."""

from __future__ import annotations

import json
from math import log
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lmtrain.bench.config import BenchConfig, BenchDevice, BenchKind, Floor
from lmtrain.bench.contenders import builders, compared_model
from lmtrain.bench.footprint import Measured, bench_memory
from lmtrain.bench.step import Measurement, _Times, _Worker, bench, headroom
from lmtrain.models.accounting import TRAINING, ModelCost
from lmtrain.ops.config import Backend
from lmtrain.settings.engine import Remat

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.config import InspectConfig

pytest.importorskip("transformers")


def test_contenders_have_one_size_and_learn_the_same_targets() -> None:
    tokens = torch.randint(4096, (2, 17))
    config = BenchConfig(peers=True)
    contenders = [build() for name, build in builders(config).items() if name not in list(Floor)]
    ours = contenders[0].parameters
    for contender in contenders:
        assert abs(contender.parameters / ours - 1) < 0.005
        loss = contender.loss(tokens)
        assert abs(loss.item() - log(4096)) < 0.2  # untrained
        loss.backward()
        assert all(p.grad is not None for p in contender.model.parameters())


@pytest.mark.parametrize("pattern", ["A", "GGGA", "MAW-"])
def test_the_floor_has_the_flops_of_every_product_and_no_other(pattern: str) -> None:
    """Against the accounting, which also counts convolutions and recurrences as a token costs."""
    config = BenchConfig(pattern=pattern, lengths=[32])
    model, tokens = compared_model(config), torch.randint(4096, (2, 17))
    counted = dict[Floor, int]()
    for floor in Floor:
        contender = builders(config)[floor]()
        # attention by plain products, the hidden half too: others are not counted on a CPU
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            contender.loss(tokens).backward()
        counted[floor] = counter.get_total_flops()
        assert all(p.grad is not None for p in contender.model.parameters())
    cost = ModelCost.of(model)
    letters = [letter for spec, _ in cost.blocks for letter in spec.mixers]
    g, m = model.gated_deltanet, model.mamba2
    inner, states = m.expand * model.d_model, g.value_heads * g.value_dim * g.key_dim
    beside = {
        "G": (2 * g.key_heads * g.key_dim + g.value_heads * g.value_dim) * g.conv_width
        + 4 * states,
        "M": (inner + 2 * m.groups * m.state_dim) * m.conv_width + 3 * inner * m.state_dim,
    }
    products = cost.total.flops - 2 * sum(beside.get(letter, 0) for letter in letters)
    assert counted[Floor.products] == TRAINING * 32 * products
    pairs = letters.count("A") * 2 * 16**2 * 4 * model.attention.heads * 64
    pairs += letters.count("W") * 2 * 16**2 * 4 * model.d_model  # whatever its heads
    assert counted[Floor.attention] - counted[Floor.products] == TRAINING * pairs


def test_a_floor_is_no_peer() -> None:
    def took(name: str, seconds: float) -> Measurement:
        return Measurement(name, 1, 64, 64, [seconds], [seconds], 0)

    ours, peer, floor = took("lmtrain A", 3.0), took("a peer", 4.0), took(Floor.products, 2.0)
    assert headroom([ours, peer]) == []
    assert headroom([ours, peer, floor]) == ["products alone at 64: 2.00 × a peer (ours is 1.33 ×)"]


@pytest.mark.slow
@pytest.mark.parametrize("peers", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_measurement_is_printed_and_written(
    *, peers: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, count = tmp_path / "step.json", 5 if peers else 1
    measured = bench(BenchConfig(peers=peers, lengths=[32], repeats=2, threads=1, out=str(out)))
    assert [m.length for m in measured] == [32] * count
    assert all(len(m.seconds) == 2 and m.memory > 0 for m in measured)
    record = json.loads(out.read_text())
    assert [result["tokens"] for result in record["results"]] == [32] * count
    assert {"cpu", "cores", "torch", "transformers"} <= record["machine"].keys()
    told = capsys.readouterr().out
    assert told.count("lmtrain") == 1
    if peers:
        assert told.count("Qwen3-Next (ours is") == told.count("% of it") // 2 == len(Floor)


class TiredWorker:
    """Steps as a worker does, without a process; of 64 tokens peers have no memory for the 4th."""

    def __init__(self, name: str, length: int, config: BenchConfig) -> None:
        self.name, self.length, self.steps = name, length, config.repeats * [_Times(1.0, 1.0)]
        self.done = 0

    def __enter__(self) -> TiredWorker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self) -> _Times:
        self.done += 1
        if self.length == 64 and self.done == 4 and "lmtrain" not in self.name:
            raise RuntimeError(f"{self.name}: OutOfMemoryError")
        return self.steps[0]

    def finish(self, steps: list[_Times]) -> Measurement:
        assert steps == self.steps
        return Measurement(self.name, 1, self.length, 64, [1.0], [1.0], 1)


def test_what_fails_in_its_turn_ends_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmtrain.bench.step._Worker", TiredWorker)
    out = tmp_path / "step.json"
    measured = bench(BenchConfig(lengths=[32, 64, 16], repeats=3, out=str(out)))
    assert [(m.length, "lmtrain" in m.contender) for m in measured] == [
        *[(32, number == 0) for number in range(5)],
        *((64, True), (16, True)),
    ]
    assert capsys.readouterr().out.count("not measured, 64 tokens: ") == 4
    assert len(json.loads(out.read_text())["notes"]) == 4


def test_what_was_measured_is_written_before_the_next_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(TiredWorker):
        def __enter__(self) -> TiredWorker:
            if self.length == 64:
                raise KeyboardInterrupt
            return self

    monkeypatch.setattr("lmtrain.bench.step._Worker", Interrupted)
    out = tmp_path / "step.json"
    with pytest.raises(KeyboardInterrupt):
        bench(BenchConfig(lengths=[32, 64], peers=False, repeats=1, out=str(out)))
    assert [result["length"] for result in json.loads(out.read_text())["results"]] == [32]


def test_a_worker_that_is_gone_is_told() -> None:
    worker = _Worker("a peer", 8, BenchConfig())
    worker._theirs.close()
    with pytest.raises(RuntimeError, match="the process of a peer died"):
        worker.step()


def test_a_model_without_room_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(planned: InspectConfig, preset: str, _: BenchConfig) -> Measured:
        if planned.engine.remat is not Remat.full:
            raise torch.OutOfMemoryError("no room")
        return Measured(preset, "full", 64, 1, 1, 2, 2, "the loss", [1.0], 1.0)

    monkeypatch.setattr("lmtrain.bench.footprint.measure", measured)
    out = tmp_path / "memory.json"
    config = BenchConfig(what=BenchKind.memory, presets=["mamba2"], lengths=[64], out=str(out))
    assert [one.remat for one in bench_memory(config)] == ["full"]
    assert "not measured, mamba2, remat=none, 64 tokens: no room" in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert len(record["results"]) == 1
    assert len(record["notes"]) == 3


def test_backends_compute_one_model() -> None:
    chosen = [Backend.torch, Backend.reference]
    config = BenchConfig(what=BenchKind.backends, pattern="MGG", lengths=[16], backends=chosen)
    ours, other = (build() for build in builders(config).values())
    tokens = torch.randint(ours.model.config.vocab_size, (2, 17))  # type: ignore[arg-type, union-attr]
    torch.testing.assert_close(ours.loss(tokens), other.loss(tokens))
    assert ours.parameters == other.parameters


@pytest.mark.long
def test_backends_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "backends.json"
    keys = {"lengths": [16], "repeats": 1, "warm_up": 0, "threads": 1, "out": str(out)}
    chosen = [Backend.torch, Backend.reference]
    config = BenchConfig(what=BenchKind.backends, pattern="MGG", backends=chosen, **keys)  # type: ignore[arg-type]
    measurements = bench(config)
    assert [m.contender for m in measurements] == ["torch", "reference"]
    assert measurements[0].parameters == measurements[1].parameters
    assert json.loads(out.read_text())["notes"] == []
    assert "reference" in capsys.readouterr().out


@pytest.mark.long
def test_a_contender_that_fails_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmtrain.bench.contenders.backend_problems", lambda *_: [])
    out = tmp_path / "backends.json"
    keys = {"lengths": [16], "repeats": 1, "warm_up": 0, "threads": 1, "out": str(out)}
    chosen = [Backend.torch, Backend.fla]
    config = BenchConfig(what=BenchKind.backends, pattern="G", backends=chosen, **keys)  # type: ignore[arg-type]
    assert [m.contender for m in bench(config)] == ["torch"]
    assert "not measured, 16 tokens: fla: ValueError: ops.backend=fla" in capsys.readouterr().out
    assert json.loads(out.read_text())["notes"][0].startswith("16 tokens: fla: ValueError")
    config.backends = chosen[::-1]
    with pytest.raises(RuntimeError, match="16 tokens: fla: ValueError"):
        bench(config)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (BenchConfig(what=BenchKind.backends, size="7b"), "size=7b"),
        (BenchConfig(what=BenchKind.backends, backends=[Backend.fla]), "ops.backend=fla"),
        (BenchConfig(compile=True, size="7b"), "size=7b"),
        (BenchConfig(compile=True, what=BenchKind.rows), "compile=true"),
        (BenchConfig(lengths=[]), "lengths"),
        (BenchConfig(lengths=[3, 4]), "lengths"),
        (BenchConfig(repeats=0), "repeats"),
        (BenchConfig(threads=0), "threads"),
        (BenchConfig(out="/no/where/step.json"), "out"),
        (BenchConfig(pattern="GX"), "model.pattern"),
    ],
)
def test_a_wrong_value_is_refused_by_name(config: BenchConfig, named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named}\b"):
        bench(config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("what", [BenchKind.step, BenchKind.backends])
def test_a_card_that_is_not_there_is_refused(what: BenchKind) -> None:
    with pytest.raises(ValueError, match="device=cuda, but torch finds no CUDA device: say"):
        bench(BenchConfig(what=what, device=BenchDevice.cuda))
