"""What a teacher adds to a plan: against counts, and against the allocator."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile, record_function

from lmtrain.batch import Batch
from lmtrain.config import compose
from lmtrain.inspect import case_of, plan
from lmtrain.inspect.hardware import Hardware
from lmtrain.inspect.memory import busiest, moments
from lmtrain.inspect.model import table
from lmtrain.inspect.time import step_time
from lmtrain.layout import SequenceLayout
from lmtrain.models.decoder import Decoder
from lmtrain.ops.backend import bind
from lmtrain.parallel.links import Link, Links, Rates
from lmtrain.settings.engine import Remat
from lmtrain.train.birth import birth
from lmtrain.train.distill import Distillation
from lmtrain.train.engines.local import LocalEngine
from lmtrain.train.objective import TextLoss

if TYPE_CHECKING:
    from lmtrain.inspect.case import Case

FREE = Link(0.0, 1e30)
PRODUCTS = Hardware("test", 2**40, Rates(1e30, 1e30, 1e30, 1e10), Links(8, FREE, FREE), cuda=False)
"""Only products take time."""


def student(*more: str) -> Case:
    keys = [
        "hardware=h100",
        "model/size=debug",
        "model.pattern=GGGA",
        "model.vocab_size=2048",
        "ops.backend=torch",
    ]
    return case_of(compose([*keys, *more], "inspect"))


def taught(case: Case, *, layers: int = 0, logits: int = 0) -> Case:
    """The same with a transformer of the same shape as teacher."""
    config = case.config
    distill = replace(config.distill, teacher="plain", layers_steps=layers, logits_steps=logits)
    teacher = replace(config.model, pattern="A")
    return replace(case, config=replace(config, distill=distill), teacher=teacher)


@pytest.mark.parametrize(("kind", "shards"), [("fsdp", 8), ("ddp", 1)])
def test_its_parameters_are_shared_out_like_the_models(kind: str, shards: int) -> None:
    alone = student("world=8", "train.tokens_per_step=32768", f"engine.kind={kind}")
    both = taught(alone, logits=10)
    assert both.taught is not None
    size = 4 * both.taught.cost.total.parameters // shards
    table = 4 * alone.cost.embedding.parameters if shards > 1 else 0  # whole in its loss
    for before, after in zip(moments(alone), moments(both), strict=True):
        assert after.teacher == size
        assert before.teacher == 0
        rest = after.total - size - before.total
        assert rest == 0 or (after.moment == "loss" and rest > table)


def test_its_forward_pass_takes_time() -> None:
    alone = replace(student("train.tokens_per_step=4096", "train.accumulate=2"), hardware=PRODUCTS)
    both = taught(alone, logits=10)
    assert both.taught is not None
    cost = both.taught.cost
    matrices = sum(block.parameters for _, block in cost.blocks) + cost.embedding.parameters
    found, before = step_time(both), step_time(alone)
    assert found.teacher == pytest.approx(2 * matrices * 4096 / PRODUCTS.products, rel=1e-9)
    assert found.total - found.teacher == pytest.approx(before.total)


def test_the_tables_say_so() -> None:
    both = taught(student(), layers=7, logits=5)
    assert both.taught is not None
    console = Console(width=80, color_system=None)
    with console.capture() as told:
        console.print(table(both), *plan.tell(both))
    said = told.get()
    assert f"{both.taught.cost.total.parameters:,}" in said
    assert said.count("teacher, forward") == 2
    assert "behind step 12, without the teacher" in said


@pytest.mark.long
@pytest.mark.parametrize(
    ("stage", "moment", "blocks", "remat"),
    [
        ("logits", "loss", 4, Remat.none),
        ("logits", "loss", 4, Remat.full),
        ("layers", "lesson of the new mixers", 12, Remat.full),
    ],
)
def test_bytes_of_a_stage_are_those_of_the_allocator(
    stage: str, moment: str, blocks: int, remat: Remat
) -> None:
    sizes = [f"model.n_layers={blocks}", "curriculum.max_length=2048"]
    steps = ["train.tokens_per_step=2048", f"engine.remat={remat}", "engine.device=cpu"]
    both = taught(student(*sizes, *steps, "launch.threads=1"), **{stage: 1})
    predicted = {each.moment: each.total for each in moments(both)}
    assert predicted[moment] == busiest(both).total
    assert abs(predicted[moment] / peak(both) - 1) < 0.1


def peak(case: Case) -> int:
    """Bytes at the peak of the second step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as heard:
        engine = LocalEngine(case.config.engine)
        model, optimizer = birth(case.config, engine)
        assert case.teacher is not None
        with torch.device("meta"):
            teacher = Decoder(case.teacher)
        bind(teacher, case.config.ops, engine.device, engine.dtype)
        engine.prepare(teacher.requires_grad_(requires_grad=False), trains=False)
        for parameter in teacher.parameters():
            parameter.normal_(std=0.02)
        text = TextLoss(case.config, engine)
        objective = Distillation(case.config, engine, teacher, text)
        tokens = torch.randint(2048, (case.row + 1,))
        layout = SequenceLayout.whole(range(0, case.row + 1, case.length))
        batch = Batch(tokens[:-1], tokens[1:], layout)
        if objective.stage(0) == "layers":
            new = tuple(f"blocks.{block}.mixers." for block in objective.blocks)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.startswith(new))
        for name in ("first", "second"):
            with record_function(name):
                engine.backward(objective(0, model, batch).total / case.row)
                engine.step(optimizer, lr=1e-4, clip=1.0)
    assert heard.profiler is not None
    assert heard.profiler.kineto_results is not None
    events: list[Any] = heard.profiler.kineto_results.events()
    [started] = [event.start_ns() for event in events if event.name() == "second"]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = accumulate(size for _, size in changes)
    return max(now for (when, _), now in zip(changes, held, strict=True) if when >= started)
