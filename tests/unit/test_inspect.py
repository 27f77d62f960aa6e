"""The table of a composed model."""

from __future__ import annotations

import pytest
from rich.console import Console

from lmtrain.config import compose
from lmtrain.inspect import inspect
from lmtrain.models.accounting import ModelCost


def shown(*overrides: str) -> str:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(inspect(compose(["hardware=h100", *overrides], "inspect")))
    return capture.get()


def test_every_run_of_equal_blocks_is_a_row_and_the_total_is_the_model() -> None:
    overrides = ["model=hybrid_3to1", "model.n_layers=8", "model.vocab_size=512"]
    text = shown(*overrides)
    cost = ModelCost.of(compose(overrides).model)
    for row in ("0-2, each", "4-6, each", "gated_deltanet, mlp", "attention, mlp"):
        assert row in text
    assert f"{cost.total.parameters:,}" in text
    assert f"{cost.blocks[3][1].parameters:,}" in text


def test_the_vocabulary_is_the_one_the_run_would_have() -> None:
    assert "vocabulary 1,024," in shown("data.vocab_size=1000")
    assert "vocabulary 77," in shown("model.vocab_size=77")


def test_attention_costs_more_in_longer_documents_and_a_recurrence_does_not() -> None:
    def total(pattern: str, length: int) -> str:
        overrides = [f"model.pattern={pattern}", f"curriculum.max_length={length}"]
        text = shown(*overrides)
        return next(line for line in text.splitlines() if "all, forward " in line)

    assert total("A", 512) != total("A", 1024)
    assert total("G", 512) == total("G", 1024)


SHARED = ["train.tokens_per_step=8192", "curriculum.max_length=4096", "parallel.sequence=4"]


def test_shared_rows_are_told_a_strategy_for_each_mixer_and_length() -> None:
    text = shown(*SHARED, "curriculum.min_length=2048", "parallel.strategy.A=zigzag")
    rows = [line.split("│") for line in text.split("Strategies of 4")[1].splitlines()]
    cells = [[cell.strip() for cell in row[1:-1]] for row in rows if row[0] == ""]
    found = {(row[0], row[1]): row[2:] for row in cells if row[1:] and row[1] != "documents"}
    assert len(found) == 4 * 2
    for letter in "AWMG":
        assert found[letter, "2,048"][:2] == ["local", "1"]
        assert found[letter, "4,096"][1] == "2"
        assert found[letter, "4,096"][-1].endswith("%")
    assert found["A", "4,096"][0] == "zigzag"
    assert "Strategies" not in shown()


def test_a_strategy_that_cannot_be_is_refused_before_any_run() -> None:
    with pytest.raises(ValueError, match=r"parallel\.strategy\.A=ulysses .* 4 ranks > 2 heads"):
        shown(*SHARED, "parallel.strategy.A=ulysses", "curriculum.max_length=8192")
    with pytest.raises(ValueError, match=r"parallel\.strategy\.M=ring does not serve"):
        shown(*SHARED, "parallel.strategy.M=ring")


def test_a_wrong_word_is_refused_with_its_place() -> None:
    with pytest.raises(ValueError, match="'X' is no mixer"):
        shown("model.pattern=GXA")


def test_a_missing_store_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.source=/no/where"):
        shown("data=store", "data.source=/no/where")


def test_hours_are_left_to_the_start_of_the_run() -> None:
    told = "budget.hours=2 becomes a number of steps when the run starts"
    assert told in " ".join(shown("model=debug", "budget.hours=2").split())
    assert "budget.hours" not in shown("model=debug", "budget.flops=1e15")
