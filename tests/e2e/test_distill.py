"""A hybrid learns from the transformer that it was made of."""

from __future__ import annotations

import shutil
from math import nan
from typing import TYPE_CHECKING

import pytest
import torch
from runs import Run
from safetensors.torch import load_file
from transformers_to_hybrids import Taught, teach

from lmtrain.batch import IGNORED, Batch
from lmtrain.config import compose, read
from lmtrain.layout import SequenceLayout
from lmtrain.settings.engine import EngineConfig
from lmtrain.train.birth import birth
from lmtrain.train.distill import Distillation
from lmtrain.train.engines import LocalEngine
from lmtrain.train.objective import open_objective
from lmtrain.train.teacher import find_teacher
from lmtrain.train.trainer import Training

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.models.decoder import Decoder

STAGES = ["distill.layers_steps=3", "distill.logits_steps=3", "faults.spike=3", "faults.window=2"]
"""With a judge of spikes who would take the losses of the next stage for one."""


@pytest.fixture(scope="module")
def taught(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return teach(tiny, tmp_path_factory.mktemp("taught"))


@pytest.fixture(scope="module")
def distilled(taught: Taught, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All three stages without interruption, a checkpoint after each step of the first two."""
    run = Run(tmp_path_factory.mktemp("distilled") / "run", taught.words(*STAGES))
    before = stored(taught.plain)
    assert run.train("checkpoint.every=1", "checkpoint.keep=8") == 0
    after = stored(taught.plain)
    assert all(torch.equal(after[name], before[name]) for name in before), "the teacher changed"
    return run


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model-00001-of-00001.safetensors")


def test_stages_follow_one_another_and_tell_their_parts(distilled: Run) -> None:
    steps = [report for report in distilled.metrics if "loss" in report]
    stages = ["layers"] * 3 + ["logits"] * 3 + ["text"] * 2
    assert [report["stage"] for report in steps] == stages
    names = [["mse"]] * 3 + [["kl", "nll"]] * 3 + [["nll"]] * 2
    assert [list(report["parts"]) for report in steps] == names
    assert all(next(iter(r["parts"].values())) == r["loss"] for r in steps)
    assert steps[3]["loss"] > 3 * steps[1]["loss"], "no spike for the judge"
    assert steps[2]["loss"] < steps[0]["loss"]
    assert steps[5]["loss"] < steps[3]["loss"]


def test_only_new_mixers_learn_at_first(distilled: Run, taught: Taught) -> None:
    begun, third, fourth = stored(taught.hybrid), distilled.weights(3), distilled.weights(4)
    new = ("blocks.0.mixers.", "blocks.1.mixers.", "blocks.2.mixers.")  # of GWMA, W from A
    for name, values in begun.items():
        assert torch.equal(third[name], values) is not name.startswith(new), name
        assert not torch.equal(fourth[name], third[name]), name


def batch() -> Batch:
    layout = SequenceLayout.of_lengths([5, 1, 17, 9])
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(257, (32,), generator=generator)
    targets[[4, 5, 22]] = IGNORED  # after the ends of documents
    return Batch(torch.randint(257, (32,), generator=generator), targets, layout)


@pytest.fixture(scope="module")
def pair(taught: Taught) -> tuple[Distillation, Decoder]:
    """An objective in one process, and the hybrid as it begins."""
    config = compose(taught.words(*STAGES, "engine.device=cpu"))
    engine = LocalEngine(EngineConfig())
    model, _ = birth(config, engine, taught.hybrid)
    objective = open_objective(
        config, engine, find_teacher(config, taught.plain / "tokenizer.json")
    )
    assert isinstance(objective, Distillation)
    return objective, model


def test_the_first_stage_is_the_error_of_mixers_that_read_as_the_teachers(
    pair: tuple[Distillation, Decoder],
) -> None:
    objective, model = pair
    here, total = batch(), torch.zeros((), dtype=torch.float64)
    x, kept = objective.teacher.embedding(here.tokens), here.targets != IGNORED
    for i, block in enumerate(objective.teacher.blocks):
        _, y = block.get_submodule("mixer_norm")(x)
        mixer = f"blocks.{i}.mixers.0"
        theirs = objective.teacher.get_submodule(mixer)(y, here.layout)
        if i in {0, 1, 2}:
            error = (model.get_submodule(mixer)(y, here.layout) - theirs).detach().double()
            total += error.square().mean(-1)[kept].sum() / 3
        x = block(x, here.layout)
    model.zero_grad()
    losses = objective(0, model, here)
    losses.total.backward()
    assert losses.parts.tolist() == pytest.approx([total.item()], rel=1e-5)
    learn = {name for name, p in model.named_parameters() if p.grad is not None}
    new = ("blocks.0.mixers.", "blocks.1.mixers.", "blocks.2.mixers.")
    assert learn == {name for name, _ in model.named_parameters() if name.startswith(new)}
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())


def test_the_second_stage_is_the_divergence_from_the_teacher(
    pair: tuple[Distillation, Decoder],
) -> None:
    objective, model = pair
    here = batch()
    losses = objective(3, model, here)
    kept = here.targets != IGNORED
    q = model(here.tokens, here.layout).double().log_softmax(-1)[kept]
    p = objective.teacher(here.tokens, here.layout).double().log_softmax(-1)[kept]
    kl = (p.exp() * (p - q)).sum().item()
    nll = -q.gather(1, here.targets[kept][:, None]).sum().item()
    assert losses.parts.tolist() == pytest.approx([kl, nll], rel=1e-5)
    model.zero_grad()
    losses.total.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_documents_do_not_teach_each_other(pair: tuple[Distillation, Decoder]) -> None:
    """The losses of a packed row are those of its documents one by one, in both stages."""
    objective, model = pair
    here, alone = batch(), {0: 0.0, 3: 0.0}
    for a, b in zip(here.layout.bounds, here.layout.bounds[1:], strict=False):
        own = SequenceLayout.of_lengths([b - a])
        for index in alone:
            document = Batch(here.tokens[a:b], here.targets[a:b], own)
            alone[index] += objective(index, model, document).parts[0].item()
    for index, total in alone.items():
        assert objective(index, model, here).parts[0].item() == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, *(pytest.param(n, marks=pytest.mark.long) for n in (3, 5))])
def test_stopped_in_any_stage_it_goes_on_bitwise(
    stop: int, distilled: Run, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    run, update = Run(tmp_path / "run", taught.words(*STAGES)), Training.update
    words = ("checkpoint.every=1", "checkpoint.keep=8")

    def interrupted(self: Training, index: int, batches: list) -> object:
        if index + 1 == stop:
            signal.raise_signal(signal.SIGTERM)
        return update(self, index, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "update", interrupted)
        assert run.train(*words) == 128 + signal.SIGTERM
    assert len(run.losses) == stop
    assert run.train(*words) == 0
    assert run.metrics == distilled.metrics
    assert run.same_state(distilled)


@pytest.mark.slow
def test_going_back_to_another_stage_takes_no_losses_from_there(
    taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, apply = Run(tmp_path / "run", taught.words(*STAGES)), Training.apply

    def faulty(self: Training, index: int, **more: float) -> tuple[float, str]:
        return (nan, "bad") if index == 4 else apply(self, index, **more)

    monkeypatch.setattr(Training, "apply", faulty)
    assert run.train("faults.policy=rollback", "checkpoint.every=3") == 0
    faults = [(r["step"], r["back"]) for r in run.metrics if "fault" in r]
    assert faults == [(5, 3)]


def test_another_teacher_or_other_stages_are_refused(
    distilled: Run, taught: Taught, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", taught.words(*STAGES))
    shutil.copytree(distilled.folder, run.folder)
    with pytest.raises(ValueError, match=r"distill\.logits_steps was 3 and is 4: set it back"):
        run.train("distill.logits_steps=4", "train.steps=9")
    with pytest.raises(ValueError, match="is not the teacher that .* learned from: set it back"):
        run.train(f"distill.teacher={taught.teacher.folder}", "train.steps=9")
    moved = tmp_path / "moved"
    shutil.copytree(taught.plain, moved)
    assert run.train(f"distill.teacher={moved}", "train.steps=9", "resume.replan=true") == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["model.n_layers=3"], r"model\.n_layers=4, this run 3"),
        (["model.d_model=64"], r"model\.d_model=32, this run 64"),
        (["model.vocab_size=640"], r"model\.vocab_size=320, this run 640"),
        (["model.pattern=A"], "no other mixers: say distill.layers_steps=0"),
        (["model.pattern=A-"], "block 1 is A there and - here"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    words: list[str], why: str, taught: Taught, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", taught.words(*STAGES))
    drawn = [f"run.weights={tmp_path / 'drawn'}"]
    shutil.copytree(taught.hybrid, tmp_path / "drawn")
    config = compose([*run.overrides, *drawn, *words])
    (tmp_path / "drawn" / "config.yaml").write_text(as_yaml(config.model, taught))
    with pytest.raises(ValueError, match=why):
        check(config, taught)


def as_yaml(model, taught: Taught) -> str:
    from lmtrain.config import to_yaml

    config = read(taught.hybrid / "config.yaml")
    config.model = model
    return to_yaml(config)


def check(config, taught: Taught) -> None:
    find_teacher(config, taught.plain / "tokenizer.json")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["distill.logits_steps=2"], "distill.logits_steps=2 needs a teacher"),
        (["distill.teacher=x"], "distill.teacher=x teaches nothing"),
        (["distill.teacher=x", "distill.layers_steps=2"], "say run.weights=CHECKPOINT"),
        (["distill.teacher=x", "distill.logits_steps=9"], "more than train.steps=8: raise that"),
        (["distill.temperature=0"], "distill.temperature=0 must be positive and finite"),
        (["distill.layers_steps=-1"], "distill.layers_steps=-1 must not be negative"),
        (
            [
                "distill.teacher=x",
                "distill.logits_steps=1",
                "engine.kind=deepspeed",
                "engine.zero=1",
            ],
            "which holds one model: say engine.kind=fsdp or ddp",
        ),
        (
            ["distill.teacher=x", "distill.layers_steps=1", "run.weights=x", "engine.gather=bf16"],
            "say engine.gather=fp32",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(
    words: list[str], why: str, tiny: list[str]
) -> None:
    assert any(why in problem for problem in compose([*tiny, *words]).check(2))


@pytest.mark.long
def test_the_recipe_brings_a_hybrid_near_its_teacher(
    taught: Taught, tmp_path: Path, tiny: list[str]
) -> None:
    """Nearer than as many steps of the same hybrid from drawn weights, in loss and predictions."""
    words = ["train.steps=24", "validation.every=null", "validation.tokens=2048"]
    from_teacher = Run(tmp_path / "a", taught.words("distill.layers_steps=8", *words))
    assert from_teacher.train("distill.logits_steps=16") == 0
    own = [w for w in taught.words(*words) if not w.startswith(("run.weights", "distill."))]
    from_nothing = Run(tmp_path / "b", own)
    assert from_nothing.train() == 0
    teacher = taught.teacher.metrics[-1]["val_loss"]
    near, far = (run.metrics[-1]["val_loss"] for run in (from_teacher, from_nothing))
    assert 0 < near - teacher < 0.5 * (far - teacher)
    divergences = [r["parts"]["kl"] for r in from_teacher.metrics if r.get("stage") == "logits"]
    assert divergences[-1] < 0.5 * divergences[0]
