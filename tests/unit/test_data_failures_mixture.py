"""Faults of mixing and resuming that other toolkits have; each test is named for its fault."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from data_stores import random_texts, write_store

from lmtrain.config import compose
from lmtrain.data.config import DataConfig, MixScope, SourceConfig
from lmtrain.data.curriculum_config import CurriculumConfig, CurriculumName
from lmtrain.data.fingerprint import row_fingerprint
from lmtrain.data.plan import Plan
from lmtrain.data.sources import Sources, open_data, open_validation
from lmtrain.data.summary import summarize

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lmtrain.data.bucket import Draw
    from lmtrain.data.store import Store

CURRICULUM = CurriculumConfig(min_length=32, max_length=256, cycle_steps=10)
STEP = 1024


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """Three sources of other sizes and lengths."""
    folder = tmp_path_factory.mktemp("mixture")
    texts = {
        "books": random_texts(60, longest=3000),
        "code": random_texts(300, longest=200, seed=1) + random_texts(20, longest=900, seed=2),
        "web": random_texts(400, longest=2000, seed=3),
    }
    return {name: write_store(folder / name, each) for name, each in texts.items()}


def mixed(
    stores: Mapping[str, Store], weights: Mapping[str, float], scope: MixScope = MixScope.bucket
) -> Sources:
    configs = {
        name: SourceConfig(path=str(stores[name].folder), weight=weight, max_repetition=None)
        for name, weight in weights.items()
    }
    return Sources({name: stores[name] for name in weights}, configs, scope)


def make(data: Store | Sources, **changes: Any) -> Plan:
    return Plan.build(data, CURRICULUM, **{"seed": 1, "tokens_per_step": STEP, **changes})


def drawn(data: Sources, plan: Plan, steps: int) -> dict[tuple[str, int], list[int]]:
    """Positions inside each source, by source and length, in the order in which they are read."""
    found: dict[tuple[str, int], list[int]] = {}
    for step in range(steps):
        draw = plan[step]
        numbers = np.searchsorted(data.begins, draw.starts, side="right") - 1
        for number, start in zip(numbers.tolist(), draw.starts.tolist(), strict=True):
            key = data.names[number], draw.length
            found.setdefault(key, []).append(start - data.begins[number])
    return found


def test_a_source_that_is_added_or_reordered_leaves_the_others_their_order(
    stores: dict[str, Store],
) -> None:
    two, three = (
        mixed(stores, {"web": 1, "code": 1}),
        mixed(stores, {"web": 1, "books": 1, "code": 1}),
    )
    before, after = drawn(two, make(two), 100), drawn(three, make(three), 100)
    shared = before.keys() & after.keys()
    assert {name for name, _ in shared} == {"web", "code"}
    for cell in shared:
        common = min(len(before[cell]), len(after[cell]))
        assert before[cell][:common] == after[cell][:common]
    other = mixed(stores, {"code": 2, "web": 2})
    assert make(other).hash == make(two).hash  # order and scale of the weights say nothing
    assert make(three).hash != make(two).hash


@pytest.mark.parametrize("scope", MixScope)
def test_weights_mean_tokens_not_documents_or_samples(
    stores: dict[str, Store], scope: MixScope
) -> None:
    data = mixed(stores, {"web": 0.5, "code": 0.3, "books": 0.2}, scope)
    plan, steps = make(data), 400
    tokens = dict.fromkeys(data.names, 0)
    for (name, length), starts in drawn(data, plan, steps).items():
        tokens[name] += length * len(starts)
    assert sum(tokens.values()) == steps * STEP
    shares = [tokens[name] / (steps * STEP) for name in ("web", "code", "books")]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.02)
    assert plan.mixture.drawn(plan.pieces(steps)).sum(1).tolist() == [
        tokens[name] for name in data.names
    ]


def test_in_scope_bucket_every_length_holds_the_weights(stores: dict[str, Store]) -> None:
    data = mixed(stores, {"web": 0.5, "code": 0.3, "books": 0.2})
    plan = make(data)
    tokens = plan.mixture.drawn(plan.pieces(600))
    np.testing.assert_allclose(tokens / tokens.sum(0), [[0.2] * 4, [0.3] * 4, [0.5] * 4], atol=0.06)
    other = make(mixed(stores, {"web": 0.5, "code": 0.3, "books": 0.2}, MixScope.global_))
    free = other.mixture.drawn(other.pieces(600))
    assert np.ptp(free / free.sum(0), axis=1).max() > 0.1  # lengths differ between the sources


def test_more_than_one_epoch_is_counted_per_source_and_in_a_new_order(
    stores: dict[str, Store],
) -> None:
    data = mixed(stores, {"web": 0.2, "books": 0.8}, MixScope.global_)
    plan, steps = make(data), 400
    for (name, length), starts in drawn(data, plan, steps).items():
        size = len(set(starts))
        epochs = [starts[at : at + size] for at in range(0, len(starts), size)]
        for epoch in epochs:
            assert len(set(epoch)) == len(epoch), (name, length)  # nothing twice in an epoch
        if len(epochs) > 2:
            assert epochs[0] != epochs[1]
    told = summarize(plan, steps)
    books = plan.mixture.tokens[0].sum()
    line = next(line for line in told.splitlines() if line.split()[:1] == ["books"])
    assert float(line.split()[4]) == pytest.approx(0.8 * steps * STEP / books, abs=0.2)


def test_a_weight_that_needs_more_repetition_than_allowed_is_refused(
    stores: dict[str, Store],
) -> None:
    data = mixed(stores, {"web": 0.2, "books": 0.8})
    data.configs["books"].max_repetition = 2
    books = int(make(data).mixture.tokens[0].sum())
    enough = int(2 * books / 0.8 / STEP)
    make(data, steps=enough)
    with pytest.raises(ValueError, match=r"data\.sources\.books\.weight is 0\.8 .* 2\.0\d times"):
        make(data, steps=enough + 1)


def test_no_cell_is_repeated_more_than_allowed_and_the_run_length_is_then_said(
    stores: dict[str, Store],
) -> None:
    data = mixed(stores, {"web": 0.6, "code": 0.4})  # code has few long pieces
    free = make(data, steps=350)
    data.configs["code"].max_repetition = 4
    plan = make(data, steps=350)
    repeated = [p.mixture.drawn(p.pieces(350)) / p.mixture.tokens for p in (free, plan)]
    assert repeated[0][0].max() > 10
    assert repeated[1][0].max() < 4.2
    assert plan.mixture.drawn(plan.pieces(350)).sum(1) / (350 * STEP) == pytest.approx(
        [0.4, 0.6], abs=0.02
    )
    assert plan.identity["train.steps"] == 350
    assert "train.steps" not in free.identity
    assert "more often than" not in summarize(plan, 350)


def test_a_stage_that_repeats_short_pieces_more_than_allowed_is_told(
    stores: dict[str, Store],
) -> None:
    data = mixed(stores, {"web": 0.9, "code": 0.1})
    data.configs["web"].max_repetition = 2
    supply = make(data).mixture.tokens
    short = int(supply[1, 0])
    stages = [[4 * short, 32]]
    curriculum = replace(CURRICULUM, name=CurriculumName.progressive, stages=stages)
    steps = 4 * short // STEP
    plan = Plan.build(data, curriculum, seed=1, tokens_per_step=STEP, steps=steps)
    told = summarize(plan, steps)
    assert re.search(
        r"of web more often than data.sources.web.max_repetition=2: 32 \(3.\d tim", told
    )
    assert "lengths of code" not in told


def test_sources_of_different_tokenizers_are_refused(
    stores: dict[str, Store], tmp_path: Path
) -> None:
    other = write_store(tmp_path / "other", random_texts(20))
    entry = replace(other.manifest.tokenizer, name="bpe:300", sha256="0" * 64)
    other.manifest = replace(other.manifest, tokenizer=entry)
    every = {"web": stores["web"], "other": other}
    with pytest.raises(ValueError, match=r"data\.sources\.web=.*data\.sources\.other=.*tokenizer"):
        mixed(every, {"web": 1, "other": 1})


def test_ranks_of_one_sequence_group_that_read_different_rows_are_seen(
    stores: dict[str, Store],
) -> None:
    plan, other = make(stores["web"]), make(stores["web"], seed=2)

    def row(plan: Plan, index: int) -> Draw:
        return plan[5].row(index, STEP // 2)

    assert row_fingerprint(row(plan, 0)) == row_fingerprint(row(make(stores["web"]), 0))
    different = [row(plan, 1), row(other, 0), plan[6].row(0, STEP // 2), plan[5]]
    seen = {row_fingerprint(rows) for rows in [row(plan, 0), *different]}
    assert len(seen) == 5
    assert all(-(2**63) <= value < 2**63 for value in seen)


def test_tokens_of_several_sources_are_those_of_their_stores(stores: dict[str, Store]) -> None:
    data = mixed(stores, {"web": 1, "code": 1, "books": 1})
    plan = make(data)
    for step in range(20):
        draw = plan[step]
        tokens = data.read(draw.starts, draw.length)
        flat = data.read_stretches(draw.starts, np.full_like(draw.starts, draw.length))
        assert flat.tolist() == tokens.reshape(-1).tolist()
        numbers = np.searchsorted(data.begins, draw.starts, side="right") - 1
        for row, number, start in zip(tokens, numbers, draw.starts, strict=True):
            store = stores[data.names[number]]
            [own] = store.read(np.array([start - data.begins[number]]), draw.length)
            assert row.tolist() == own.tolist()


def test_the_plan_says_what_was_asked_and_what_is_given(stores: dict[str, Store]) -> None:
    data = mixed(stores, {"web": 0.5, "code": 0.3, "books": 0.2})
    told = summarize(make(data), 300)
    lines = {line.split()[0]: line.split() for line in told.splitlines() if line.split()}
    assert "50.0%" in lines["web"]
    assert lines["source"][-7::2] == ["32", "64", "128", "256"]  # its part of each length
    assert all(float(part[:-1]) == pytest.approx(20, abs=6) for part in lines["books"][-4:])


def test_what_validates_is_not_trained_on(stores: dict[str, Store], tmp_path: Path) -> None:
    web, code = str(stores["web"].folder), str(stores["code"].folder)
    config = DataConfig(source=web, validation={"held": code})
    data = open_data(config)
    held = open_validation(config, data)["held"]
    assert held.selection.val_fraction == 1
    again = replace(config, validation={"held": web})
    with pytest.raises(
        ValueError, match=r"data\.validation\.held=.* is trained on as data\.source"
    ):
        open_validation(again, data)


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({"web": {}}, r"web\.path=None is no folder .* leave it out with ~data\.sources\.web"),
        ({"web": {"path": "/x", "weight": 0}}, r"data\.sources\.web\.weight=0 is no positive"),
        ({"web": {"path": "/x", "weight": "a"}}, r"data\.sources\.web\.weight=a is no positive"),
        ({"web": {"path": "/x", "wieght": 1}}, r"data\.sources\.web\.wieght is no key"),
        ({"web": {"path": "/x", "max_repetition": -1}}, r"max_repetition=-1 is no positive"),
    ],
)
def test_a_wrong_source_is_named(sources: dict[str, dict[str, Any]], words: str) -> None:
    [problem] = DataConfig(sources=sources).check()
    assert re.search(words, problem)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"tokens_per_step": 2 * STEP}, "train.tokens_per_step was 1024 and is 2048"),
        (
            {"weights": {"web": 3, "code": 1}},
            "data.sources.*.weight was code 0.5, web 0.5 and is code 0.25, web 0.75",
        ),
        ({"curriculum": {"cycle_steps": 5}}, "curriculum.cycle_steps was 10 and is 5"),
        ({"scope": MixScope.global_}, "data.mix_scope was bucket and is global"),
    ],
)
def test_resume_with_other_batch_size_weights_or_curriculum_names_the_field(
    stores: dict[str, Store], changed: dict[str, Any], words: str
) -> None:
    weights, scope = {"web": 1, "code": 1}, changed.get("scope", MixScope.bucket)
    before = make(mixed(stores, weights))
    data = mixed(stores, changed.get("weights", weights), scope)
    curriculum = replace(CURRICULUM, **changed.get("curriculum", {}))
    tokens = changed.get("tokens_per_step", STEP)
    now = Plan.build(data, curriculum, seed=1, tokens_per_step=tokens)
    assert now.hash != before.hash
    assert words in now.differences(before.identity)


def test_sources_are_said_on_the_command_line() -> None:
    one = ["data=mixture", "data.sources.web.path=/w", "data.sources.code.path=/c"]
    found = compose([*one, "data.sources.code.weight=0.1", "data.mix_scope=global"]).data
    assert found.check() == []
    assert found.named_sources["code"] == SourceConfig(path="/c", weight=0.1, max_repetition=4)
    assert found.mix_scope is MixScope.global_
    more = ["+data.sources.books.path=/b", "+data.sources.books.max_repetition=null"]
    named = compose([*one, *more, "~data.sources.web"]).data.named_sources
    assert list(named) == ["books", "code"]
    assert named["books"] == SourceConfig(path="/b", max_repetition=None)
    alone = compose(["+data.sources.web.path=/w", "data.source=/other"]).data
    assert "are both set" in alone.check()[0]
    assert len(compose(["data=mixture"]).data.check()) == 2  # its paths must be said
