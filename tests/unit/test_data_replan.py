"""A run that goes on with another plan uses what the plans before it left."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from data_stores import random_texts, write_store
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtrain.data.config import MixScope, SourceConfig
from lmtrain.data.curriculum_config import CurriculumConfig, CurriculumName
from lmtrain.data.plan import Plan
from lmtrain.data.replan import Past, Used, changes, order_names
from lmtrain.data.sources import Sources
from lmtrain.data.summary import summarize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lmtrain.data.store import Store

CURRICULUM = CurriculumConfig(min_length=32, max_length=256, cycle_steps=12)
STEP = 1024
Order = dict[tuple[str, int], list[int]]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    folder = tmp_path_factory.mktemp("replan")
    counts = {"code": 150, "web": 250}
    return {
        name: write_store(folder / name, random_texts(count, seed=number, longest=1500))
        for number, (name, count) in enumerate(counts.items())
    }


def mixed(stores: Mapping[str, Store], **weights: float) -> Sources:
    configs = {
        name: SourceConfig(path=str(stores[name].folder), weight=weight, max_repetition=None)
        for name, weight in weights.items()
    }
    return Sources({name: stores[name] for name in weights}, configs, MixScope.bucket)


def build(data: Store | Sources, past: Sequence[Past] = (), **changed: Any) -> Plan:
    curriculum = replace(CURRICULUM, **changed.pop("curriculum", {}))
    return Plan.build(
        data, curriculum, past=past, **{"seed": 1, "tokens_per_step": STEP, **changed}
    )


def follow(order: Order, data: Store | Sources, plan: Plan, until: int) -> Past:
    """Read the plan's steps up to one, and what is used then, as a checkpoint keeps it."""
    begins = data.begins if isinstance(data, Sources) else [0]
    names = data.names if isinstance(data, Sources) else [""]
    for step in range(plan.first_step, until):
        draw = plan[step]
        numbers = np.searchsorted(begins, draw.starts, side="right") - 1
        for number, start in zip(numbers.tolist(), draw.starts.tolist(), strict=True):
            order.setdefault((names[number], draw.length), []).append(start - begins[number])
    return Past.read(json.loads(json.dumps(asdict(plan.until(until)))))


def cells(plan: Plan) -> dict[tuple[str, int], int]:
    """Pieces of each cell."""
    return {
        (name, mix.length): cell.pieces
        for mix in plan.mixture.mixes
        for name, cell in zip(plan.mixture.sources, mix.cells, strict=True)
    }


@settings(max_examples=12, deadline=None)
@given(
    stops=st.lists(st.integers(1, 40), min_size=2, max_size=3),
    tokens=st.sampled_from([512, 1024, 3072]),
    share=st.floats(0.1, 0.9),
    name=st.sampled_from(list(CurriculumName)[:7]),
)
def test_no_piece_comes_again_before_its_epoch_ends(
    stores: dict[str, Store], stops: list[int], tokens: int, share: float, name: CurriculumName
) -> None:
    """Through other weights, batch sizes, odds and cycles, two and three times in a row."""
    data, order, past = mixed(stores, code=1, web=1), Order(), list[Past]()
    plan, end = build(data), 0
    for number, steps in enumerate(stops):
        end += steps
        past.append(follow(order, data, plan, end))
        data = mixed(stores, code=share, web=1 - share + number)
        changed = {"name": name, "cycle_steps": 7 + number}
        plan = build(data, past, tokens_per_step=tokens, curriculum=changed)
    follow(order, data, plan, end + 10)
    whole = Order()
    data = mixed(stores, code=1, web=1)
    follow(whole, data, build(data), 400)
    for cell, size in cells(plan).items():
        found = order.get(cell, [])
        for at in range(0, len(found), size):
            assert len(set(found[at : at + size])) == len(found[at : at + size]), cell
        common = min(len(found), len(whole[cell]))
        assert found[:common] == whole[cell][:common], "every cell keeps its own order"


@pytest.mark.parametrize("stop", [3, 12, 17, 40])
def test_a_pass_in_two_plans_sees_the_data_once(stores: dict[str, Store], stop: int) -> None:
    data, order = stores["web"], Order()
    first = build(data)
    past = follow(order, data, first, stop)
    second = build(data, [past], tokens_per_step=2 * STEP)
    steps = (first.steps_per_pass - stop) // 2
    follow(order, data, second, stop + steps)
    for (_, length), starts in order.items():
        size = cells(second)["", length]
        assert len(starts) == pytest.approx(size, abs=2.5 * 2 * STEP / length)


@pytest.mark.parametrize("tokens", [256, 512, 1024, 2048])
def test_a_cycle_that_was_cut_is_finished_first(stores: dict[str, Store], tokens: int) -> None:
    plan = build(stores["web"])
    after = build(stores["web"], [plan.until(17)], tokens_per_step=tokens)
    end = 17 + 7 * STEP // tokens  # where the second cycle of the first plan ends
    pieces = [a + b for a, b in zip(plan.pieces(17), after.pieces(end), strict=True)]
    for length, found, wanted in zip(plan.lengths, pieces, plan.pieces(24), strict=True):
        assert abs(found - wanted) * length <= tokens, length


def test_between_cycles_nothing_is_left(stores: dict[str, Store]) -> None:
    assert not any(build(stores["web"]).until(24).rest.values())
    assert sum(build(stores["web"]).until(17).rest.values()) == 7 * STEP


def test_later_resumes_of_a_replanned_run_are_the_same_plan(stores: dict[str, Store]) -> None:
    data = mixed(stores, code=1, web=1)
    past = [Past.read(json.loads(json.dumps(asdict(build(data).until(17)))))]
    other = mixed(stores, code=1, web=3)
    plan, again = build(other, past), build(other, past)
    assert plan.hash == again.hash != build(other).hash
    assert all(plan[step].starts.tolist() == again[step].starts.tolist() for step in (17, 40, 99))
    changed = replace(past[0], step=18)
    assert build(other, [changed]).hash != plan.hash  # what was used is part of the plan
    assert plan.tokens(20) == 20 * STEP
    third = build(other, [*past, plan.until(30)], tokens_per_step=2 * STEP)
    assert third.tokens(31) == 32 * STEP
    told = summarize(third, 60)
    weights = "data.sources.*.weight was code 0.5, web 0.5 and is code 0.25, web 0.75"
    assert f"re-planned from step 17 on: {weights}" in told
    assert "re-planned from step 30 on: train.tokens_per_step was 1024 and is 2048" in told


def test_the_one_source_of_a_run_keeps_its_order_when_it_gets_a_name(
    stores: dict[str, Store],
) -> None:
    order, then = Order(), Order()
    past = follow(order, stores["web"], build(stores["web"]), 20)
    data = mixed(stores, code=1, web=1)
    follow(then, data, build(data, [past]), 40)
    whole = Order()
    follow(whole, stores["web"], build(stores["web"]), 200)
    for (_, length), first in order.items():
        both = first + then["web", length]
        assert both == whole["", length][: len(both)]


def test_a_source_that_was_left_out_for_a_while_goes_on_where_it_was(
    stores: dict[str, Store],
) -> None:
    both, alone, order = mixed(stores, code=1, web=1), mixed(stores, web=1), Order()
    past = [follow(order, both, build(both), 15)]
    past.append(follow(order, alone, build(alone, past), 25))
    follow(order, both, build(both, past), 45)
    whole = Order()
    follow(whole, both, build(both), 200)
    assert all(starts == whole[cell][: len(starts)] for cell, starts in order.items())


def test_pieces_that_are_cut_differently_begin_anew_and_that_is_said(
    stores: dict[str, Store],
) -> None:
    plan = build(stores["web"])
    longer = build(stores["web"], [plan.until(20)], curriculum={"max_length": 512})
    assert [cell.used for mix in longer.mixture.mixes for cell in mix.cells][:3] == plan.pieces(20)[
        :3
    ]
    [warning] = [w for w in longer.warnings if "begin anew" in w]
    assert warning.startswith("pieces of 256 are others than before")


def test_skipped_steps_stay_skipped(stores: dict[str, Store]) -> None:
    skips = [[5, 8], [30, 33]]
    plan = build(stores["web"], skip_steps=skips)
    past = plan.until(20)
    after = build(stores["web"], [past], skip_steps=skips, tokens_per_step=2 * STEP)
    plain = build(stores["web"], [past], tokens_per_step=2 * STEP)
    for step, planned in ((20, 20), (26, 26), (27, 30), (40, 43)):
        assert after[step].starts.tolist() == plain[planned].starts.tolist()


def test_orders_that_two_old_names_claim_go_to_the_first() -> None:
    """Not to whichever a set gives first, which differs from process to process."""
    used = {name: {"pieces of 32": Used(5, 77)} for name in ("d", "c", "b", "e")}
    past = Past(step=1, plan="", identity={}, used=used)
    cells = {name: {"pieces of 32": 77} for name in ("x", "y", "e")}
    assert order_names(cells, [past]) == {"x": "b", "y": "c", "e": "e"}


def test_changes_that_follow_from_others_are_told_after_them() -> None:
    keys = ["train.tokens_per_step", "data.max_documents", "curriculum.cycle_steps"]
    told = changes(dict.fromkeys(keys, 1), dict.fromkeys(keys, 2))
    assert told == [f"{key} was 1 and is 2" for key in keys]


def test_a_source_that_is_added_or_named_is_told_first(stores: dict[str, Store]) -> None:
    one, two = mixed(stores, web=1), mixed(stores, code=1, web=1)
    added = build(two).differences(build(one).identity)
    assert added[0].startswith("data.sources.code.path was None and is ")
    assert added[1] == "data.sources.*.weight was web 1 and is code 0.5, web 0.5"
    assert "data.max_documents of code was None" in "".join(added[2:])
    named = build(one).differences(build(stores["web"]).identity)
    assert [line.split()[0] for line in named[:2]] == ["data.source", "data.sources.web.path"]
    assert not any("weight" in line for line in named)


def test_changes_name_their_keys() -> None:
    before = {"train.tokens_per_step": 1, "run.seed": 0, "resume.replan": ["x"]}
    now = {"train.tokens_per_step": 2, "run.seed": 0, "data.mix_scope": "bucket"}
    assert changes(before, now) == [
        "data.mix_scope was None and is bucket",
        "train.tokens_per_step was 1 and is 2",
    ]
