"""Synthetic tasks: answers follow from the tokens before, by solvers of their own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest

from lmtrain.batch import IGNORED
from lmtrain.data.tasks.recall import KeyValue, Mqar, Needles
from lmtrain.data.tasks.states import WordProblem, cayley
from lmtrain.data.tasks.table import TASKS
from lmtrain.data.tasks.task import TENTHS, RowRandom, examples, score


def recall(row: list[int], at: int) -> int:
    """What followed the last token when it stood there before."""
    return row[row.index(row[at]) + 1]


def listed_pair(row: list[int], at: int) -> int:
    """The value after the two tokens of the key at the end; triples end three before it."""
    begin = (at + 1) % 3
    triples = [tuple(row[i : i + 3]) for i in range(begin, at - 2, 3)]
    return next(value for a, b, value in triples if (a, b) == (row[at - 1], row[at]))


def needle(row: list[int], at: int) -> int:
    """The digit in its place of the needle that was asked for."""
    question = max(i for i in range(at) if row[i] == 1 and row[i + 1] >= 12)
    found = next(i for i in range(question) if row[i] == 0 and row[i + 1] == row[question + 1])
    return row[found + 2 + at - question - 1]


def copied(row: list[int], at: int) -> int:
    mark = row.index(0)
    return [x for x in row[:mark] if x > 1][at - mark]


def in_order(row: list[int], at: int) -> int:
    mark = row.index(0)
    return sorted(x for x in row[:mark] if x > 1)[at - mark]


def product(group: str) -> Callable[[list[int], int], int]:
    table = cayley(group)

    def solve(row: list[int], at: int) -> int:
        state = 0
        for token in row[: at + 1]:
            state = int(table[state, token])
        return state

    return solve


SOLVERS: dict[str, Callable[[list[int], int], int]] = {
    "mqar": recall,
    "key_value": listed_pair,
    "passkey": needle,
    "needles": needle,
    "induction": recall,
    "copy": copied,
    "selective_copy": copied,
    "sort": in_order,
    "parity": lambda row, at: sum(row[: at + 1]) % 2,
    "count": lambda row, at: sum(row[: at + 1]) % 7,
    "a5": product("A5"),
    "s5": product("S5"),
}


@pytest.mark.parametrize("more", [0, 1, 2, 77])
@pytest.mark.parametrize("name", SOLVERS)
def test_answers_follow_from_what_stands_before(name: str, more: int) -> None:
    task = TASKS[name]
    length = task.shortest + more
    drawn = examples(task, np.arange(8), seed=3, length=length)
    assert drawn.tokens.shape == drawn.targets.shape == (8, length)
    assert drawn.asked.any(1).all()
    assert ((drawn.targets != IGNORED).sum(1) == task.targets(length)).all()
    assert 0 <= drawn.tokens.min() <= drawn.tokens.max() < task.vocab_size
    assert set(drawn.group.tolist()) <= set(range(len(task.groups)))
    for row, targets, asked in zip(*(x.tolist() for x in drawn[:3]), strict=True):
        for at in range(length):
            assert asked[at] == (targets[at] != IGNORED)
            if asked[at]:
                assert targets[at] == SOLVERS[name](row, at)


def test_languages_ask_for_symbols_that_nothing_else_can_be() -> None:
    drawn = examples(TASKS["languages"], np.arange(64), seed=0, length=200)
    assert np.array_equal(drawn.tokens[:, 1:], drawn.targets[:, :-1])
    assert drawn.targets.max() < 16
    assert 0.2 < drawn.asked.mean() < 0.9
    assert not drawn.asked[:, 0].any()


@pytest.mark.parametrize("name", TASKS)
def test_a_row_is_the_same_whatever_is_drawn_beside_it(name: str) -> None:
    task, length = TASKS[name], max(40, TASKS[name].shortest)
    every = examples(task, np.arange(200), seed=1, length=length)
    for rows in ([7], [199, 0, 64], range(130, 200)):
        part = examples(task, np.array(rows), seed=1, length=length)
        for a, b in zip(part, every, strict=True):
            assert np.array_equal(a, b[list(rows)])
    other = examples(task, np.arange(200), seed=2, length=length)
    assert not np.array_equal(other.tokens, every.tokens)


def test_too_short_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows of 31 tokens .* use 32 or more"):
        examples(Mqar(pairs=8), np.arange(1), seed=0, length=31)


@pytest.mark.parametrize("task", [KeyValue(), Needles()])
def test_every_depth_is_asked_for(task: KeyValue | Needles) -> None:
    drawn = examples(task, np.arange(640), seed=0, length=300)
    assert np.bincount(drawn.group, minlength=len(TENTHS)).min() > 30


def test_keys_of_a_row_differ() -> None:
    drawn = examples(KeyValue(symbols=16), np.arange(64), seed=0, length=3 * 256 + 3)
    keys = drawn.tokens[:, :-3].reshape(64, 256, 3)
    assert all(len({(a, b) for a, b, _ in row}) == 256 for row in keys.tolist())


@pytest.mark.parametrize(("group", "size"), [("Z5", 5), ("S3", 6), ("A4", 12), ("A5", 60)])
def test_tables_are_groups(group: str, size: int) -> None:
    table, every = cayley(group), np.arange(size)
    assert table.shape == (size, size)
    assert np.array_equal(table[0], every)
    assert np.array_equal(table[:, 0], every)
    assert all(sorted(row) == list(range(size)) for row in table.tolist())
    left, right = table[table], table[:, table]  # (a b) c and a (b c)
    assert np.array_equal(left, right)


def test_the_symmetric_group_composes_permutations() -> None:
    every = list(permutations(range(4)))
    table = cayley("S4")
    for a, first in enumerate(every):
        for b, then in enumerate(every):
            assert every[table[a, b]] == tuple(then[i] for i in first)


def test_random_numbers_of_rows_are_even() -> None:
    """Every value about equally often, in every column and between neighbours."""
    random = RowRandom(np.arange(20_000), "test")
    drawn = random.integers(7, 3)
    assert drawn.min() == 0
    for column in drawn.T:
        assert np.abs(np.bincount(column, minlength=7) / 20_000 - 1 / 7).max() < 0.01
    pairs = drawn[:-1, 0] * 7 + drawn[1:, 0]
    assert np.abs(np.bincount(pairs, minlength=49) / 20_000 - 1 / 49).max() < 0.006
    order = random.order(4)
    assert (np.sort(order, axis=1) == np.arange(4)).all()
    codes = np.bincount(order @ np.array([64, 16, 4, 1]), minlength=256)
    assert np.abs(codes[codes > 0] / 20_000 - 1 / 24).max() < 0.006
    assert 0 < random.uniform(5).min() < random.uniform(5).max() < 1


@pytest.mark.parametrize("group", ["Z1", "S9", "Q8", "Z", ""])
def test_unknown_groups_are_refused(group: str) -> None:
    with pytest.raises(ValueError, match=f"group={group} is none of"):
        _ = WordProblem(group=group).vocab_size


def test_scores_count_answers_rows_and_groups() -> None:
    task = Needles(needles=1, digits=2)
    drawn = examples(task, np.arange(64), seed=0, length=50)
    asked = drawn.asked.sum(1)
    right = score(task, asked, asked, drawn.group)
    assert (right.answers, right.rows) == (1.0, 1.0)
    assert set(right.by_group.values()) == {1.0}
    partly = score(task, asked - (np.arange(64) % 2), asked, drawn.group)
    assert (partly.answers, partly.rows) == (0.75, 0.5)
    one = score(task, asked[:1], asked[:1], drawn.group[:1])
    assert one.by_group == {task.groups[drawn.group[0]]: 1.0}
