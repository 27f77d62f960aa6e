"""Checkpoints appear whole or not at all, and fit one model only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from lmtrain.config import RunConfig, compose
from lmtrain.models.decoder import Decoder
from lmtrain.ops.remat import full, selective
from lmtrain.settings.checkpoint import CheckpointSection
from lmtrain.settings.engine import Device, EngineConfig, Remat
from lmtrain.train import checkpoint
from lmtrain.train.birth import birth
from lmtrain.train.checkpoint import State
from lmtrain.train.engines import LocalEngine
from lmtrain.train.saver import Saver
from lmtrain.train.tensors import Snapshot, model_tensors, optimizer_tensors

if TYPE_CHECKING:
    from pathlib import Path

Born = tuple[Decoder, torch.optim.Optimizer]


@pytest.fixture
def engine() -> LocalEngine:
    return LocalEngine(EngineConfig(device=Device.cpu))


@pytest.fixture
def config(tiny: list[str]) -> RunConfig:
    return compose(tiny).resolved(257)


@pytest.fixture
def write(tmp_path: Path, config: RunConfig, engine: LocalEngine) -> Callable[[int, Born], Path]:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")

    def write(step: int, born: Born) -> Path:
        saver.save(State(step=step, plan="p", identity={"run.seed": 0}), *born)
        saver.finish(must=True)
        return checkpoint.path(tmp_path / "checkpoints", step)

    saver = Saver(tmp_path / "checkpoints", engine, config=config, tokenizer=tokenizer, tell=print)
    return write


def trained(config: RunConfig, engine: LocalEngine) -> Born:
    """A model and an optimizer that have seen gradients."""
    model, optimizer = birth(config, engine)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        engine.step(optimizer, lr=0.01, clip=1.0)
    return model, optimizer


def tensors(born: Born) -> dict[str, Tensor]:
    model, optimizer = born
    both = model_tensors(model) | optimizer_tensors(model, optimizer)
    return {name: tensor.clone() for name, tensor in both.items()}


def test_everything_comes_back_bitwise(
    config: RunConfig, engine: LocalEngine, write: Callable[[int, Born], Path]
) -> None:
    before = trained(config, engine)
    folder = write(7, before)
    after = birth(config, engine)
    engine.load(folder, *after)
    saved, loaded = tensors(before), tensors(after)
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert checkpoint.read_state(folder) == State(step=7, plan="p", identity={"run.seed": 0})
    assert {path.suffix for path in folder.rglob("*.*")} == {".yaml", ".json", ".safetensors"}


def test_another_model_is_refused(
    config: RunConfig, engine: LocalEngine, write: Callable[[int, Born], Path], tiny: list[str]
) -> None:
    folder = write(1, trained(config, engine))
    for other, words in (
        ("model.mlp.hidden=96", r"is \(.*\) there"),
        ("model.n_layers=5", "absent"),
    ):
        born = birth(compose([*tiny, other]).resolved(257), engine)
        with pytest.raises(ValueError, match=f"is of another model: .*{words}"):
            engine.load(folder, *born)


def test_damage_is_told(
    config: RunConfig, engine: LocalEngine, write: Callable[[int, Born], Path]
) -> None:
    born = trained(config, engine)
    folder = write(1, born)
    [weights] = (folder / "model").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        engine.load(folder, *born)
    (folder / "state.json").write_text('{"step": 1')
    with pytest.raises(ValueError, match="is not a checkpoint"):
        checkpoint.read_state(folder)


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"step": 1, "plan": "p", "identity": {}, "format": 99}')
    with pytest.raises(ValueError, match="format 99, this version reads 2"):
        checkpoint.read_state(tmp_path)


def test_a_process_that_dies_while_writing_leaves_no_checkpoint(
    config: RunConfig,
    engine: LocalEngine,
    write: Callable[[int, Born], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    born = trained(config, engine)
    good = write(1, born)
    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "write", lambda *_: (_ for _ in ()).throw(RuntimeError("died")))
        with pytest.raises(RuntimeError, match="died"):
            write(2, born)
    assert checkpoint.newest(good.parent, {}) == (good, {})
    checkpoint.clean(good.parent)
    assert list(good.parent.iterdir()) == [good]


def left(root: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in root.iterdir())


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        (CheckpointSection(keep=2, every=5), [95, 100]),
        (CheckpointSection(keep=None), [5, 20, 40, 93, 95, 100]),
        (CheckpointSection(keep=1, every=20, keep_every=20), [20, 40, 100]),
        (CheckpointSection(keep=2, every=40), [40, 95, 100]),  # runs were stopped after 95 and 100
    ],
)
def test_what_stays(tmp_path: Path, keep: CheckpointSection, stay: list[int]) -> None:
    for step in (5, 40, 100, 20, 93, 95):
        checkpoint.path(tmp_path, step).mkdir()
    checkpoint.retain(tmp_path, keep)
    assert sorted(checkpoint.step_of(path) for path in tmp_path.iterdir()) == stay


def test_a_path_means_a_run_or_a_step(
    tmp_path: Path, config: RunConfig, engine: LocalEngine, write: Callable[[int, Born], Path]
) -> None:
    with pytest.raises(ValueError, match="holds no checkpoint: give a run folder"):
        checkpoint.find(tmp_path)
    born = trained(config, engine)
    write(1, born)
    step = write(2, born)
    assert checkpoint.find(tmp_path) == checkpoint.find(step) == step


def test_the_seed_decides_the_weights(tiny: list[str], engine: LocalEngine) -> None:
    embeddings = [
        birth(compose([*tiny, f"run.seed={seed}"]).resolved(257), engine)[0].embedding.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(embeddings[0], embeddings[1])
    assert not torch.equal(embeddings[0], embeddings[2])


def test_blocks_are_computed_again_when_asked(tiny: list[str]) -> None:
    for remat, again in ((Remat.none, None), (Remat.selective, selective), (Remat.full, full)):
        engine = LocalEngine(EngineConfig(device=Device.cpu, remat=remat))
        model, _ = birth(compose(tiny).resolved(257), engine)
        assert {block.remat for block in model.blocks} == {again}


def test_nothing_is_left_uninitialised(config: RunConfig, engine: LocalEngine) -> None:
    model, _ = birth(config, engine)
    with torch.no_grad():
        model.norm.weight[3] = torch.nan
    from lmtrain.train.invariants import check_initialized

    with pytest.raises(AssertionError, match=r"never initialised: norm\.weight"):
        check_initialized(model)


def test_a_broken_gradient_leaves_the_weights_alone(config: RunConfig, engine: LocalEngine) -> None:
    born = trained(config, engine)
    before = tensors(born)
    for parameter in born[0].parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)
    with pytest.raises(FloatingPointError, match="norm is inf"):
        engine.step(born[1], lr=0.1, clip=1.0)
    after = tensors(born)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gradients_are_clipped_to_the_norm(config: RunConfig, engine: LocalEngine) -> None:
    model, _ = birth(config, engine)
    optimizer = torch.optim.SGD(model.parameters())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert engine.step(optimizer, lr=1.0, clip=0.5) == pytest.approx(count**0.5)
    moved = [(old - new).flatten() for old, new in zip(before, model.parameters(), strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(0.5, rel=1e-4)
