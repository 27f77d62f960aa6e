"""Pattern words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtrain.config import compose
from lmtrain.models.pattern import LETTERS, BlockSpec, Placement, hybrid, parse


def written(word: str, n_layers: int) -> str:
    return "".join(map(str, parse(word, n_layers)))


@pytest.mark.parametrize(
    ("word", "n_layers", "expected"),
    [
        ("GGGA", 8, "GGGAGGGA"),
        ("GGGA", 6, "GGGAGG"),
        ("A", 3, "AAA"),
        ("m-A", 3, "m-A"),
        ("(GGGA)2W", 9, "GGGAGGGAW"),
        ("((GA)2M)2", 10, "GAGAMGAGAM"),
        ("[AM]G", 4, "[AM]G[AM]G"),
        ("[am]-", 2, "[am]-"),
        ("([AM]-)12", 24, "[AM]-" * 12),
    ],
)
def test_a_word_is_expanded_and_tiled(word: str, n_layers: int, expected: str) -> None:
    assert written(word, n_layers) == expected


def test_capital_small_dash_and_brackets_make_the_blocks_they_say() -> None:
    assert parse("Gw-[AM]", 4) == (
        BlockSpec(mixers=("G",), mlp=True),
        BlockSpec(mixers=("W",), mlp=False),
        BlockSpec(mixers=(), mlp=True),
        BlockSpec(mixers=("A", "M"), mlp=True),
    )


@pytest.mark.parametrize(
    ("word", "column", "why"),
    [
        ("GGXA", 2, "'X' is no mixer"),
        ("GG A", 2, "' ' is no mixer"),
        ("G3A", 1, "'3' is no mixer"),
        ("GA,MA", 2, "several words run one after the other with -m"),
        ("G]A", 1, "']' is no mixer"),
        ("\u017f", 0, "is no mixer"),
        ("", 0, "empty"),
        ("GA)2", 2, "nothing is open"),
        ("G(GA", 1, "never closed"),
        ("((GA)2", 0, "never closed"),
        ("G[AM", 1, "never closed"),
        ("[A(M)2]", 0, "never closed"),
        ("(GA)", 3, "needs a count"),
        ("(GA)0", 4, "at least 1"),
        ("G()3", 2, "nothing to repeat"),
        ("G[A]", 1, "two mixers"),
        ("G[]", 1, "two mixers"),
        ("[Am]", 2, "share one MLP"),
        ("[A-]", 2, "'-' is no mixer"),
        ("GGGGGGGGA", 8, "longer than model.n_layers=8"),
        ("GGG(GA)3", 6, "longer than model.n_layers=8"),
        ("(((GA)99)99)999999999999999999999", 5, "longer than model.n_layers=8"),
        ("(" * 5000 + "G" + ")1" * 4999, 0, "never closed"),
    ],
)
def test_an_error_points_at_its_place(word: str, column: int, why: str) -> None:
    with pytest.raises(ValueError, match="model.pattern") as error:
        parse(word, 8)
    message, shown, caret = str(error.value).split("\n")
    assert why in message
    assert message.startswith(f"model.pattern={word}: ")
    assert shown == f"  {word}"
    assert caret == " " * (column + 2) + "^"


def test_a_stack_has_at_least_one_layer() -> None:
    with pytest.raises(ValueError, match="model.n_layers must be at least 1"):
        parse("A", 0)


blocks = st.builds(
    BlockSpec,
    mixers=st.lists(st.sampled_from(sorted(LETTERS)), min_size=1, max_size=3).map(tuple),
    mlp=st.booleans(),
) | st.just(BlockSpec(mixers=(), mlp=True))


@given(st.lists(blocks, min_size=1, max_size=9), st.integers(1, 3), st.integers(0, 5))
def test_what_is_written_is_read_back(stack: list[BlockSpec], times: int, cut: int) -> None:
    word = "".join(map(str, stack))
    tile = tuple(stack) * times
    assert parse(f"({word}){times}", len(tile)) == tile
    assert parse(word, len(stack) + cut) == (tuple(stack) * 6)[: len(stack) + cut]


@pytest.mark.parametrize(
    ("ratio", "placement", "layers", "word"),
    [
        ("3:1", "evenly", 8, "GGGA"),
        ("6:2", "evenly", 8, "GGGA"),
        ("5:2", "evenly", 14, "GGGAGGA"),
        ("1:3", "evenly", 4, "GAAA"),
        ("1:0", "evenly", 5, "G"),
        ("0:2", "evenly", 5, "A"),
        ("3:1", "first", 8, "AAGGGGGG"),
        ("3:1", "middle", 8, "GGGAAGGG"),
        ("2:1", "middle", 3, "GAG"),
        ("4:1", "middle", 5, "GGAGG"),
        ("3:1", "last", 8, "GGGGGGAA"),
        ("1:0", "middle", 3, "GGG"),
    ],
)
def test_a_ratio_is_a_word(ratio: str, placement: str, layers: int, word: str) -> None:
    place = Placement(placement)
    assert hybrid(linear="G", full="A", ratio=ratio, placement=place, n_layers=layers) == word


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 5), st.sampled_from(Placement))
def test_a_ratio_holds_exactly(linears: int, fulls: int, times: int, placement: Placement) -> None:
    if linears + fulls == 0:
        return
    layers = (linears + fulls) * times
    word = hybrid(
        linear="M", full="W", ratio=f"{linears}:{fulls}", placement=placement, n_layers=layers
    )
    mixers = [block.mixers for block in parse(word, layers)]
    assert mixers.count(("M",)) == linears * times
    assert mixers.count(("W",)) == fulls * times
    assert len(mixers) == layers


@pytest.mark.parametrize(
    ("ratio", "told"),
    [
        *((ratio, "two whole numbers") for ratio in ["3", "3:1:1", "a:b", "-1:2", "0:0", ""]),
        ("4:1", "ratio=4:1 cannot hold in model.n_layers=8: make that a multiple of 5"),
    ],
)
def test_a_ratio_that_cannot_hold_is_refused(ratio: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        hybrid(linear="G", full="A", ratio=ratio, placement=Placement.evenly, n_layers=8)


def test_a_configuration_says_a_ratio_and_holds_the_word() -> None:
    said = ["hybrid.mixer=M", "hybrid.ratio=1:1", "hybrid.placement=last", "model.n_layers=4"]
    config = compose(said)
    assert config.model.pattern == "MMAA"
    assert compose(["model.pattern=GW", "hybrid.ratio=1:1"]).model.pattern == "GW"
    alone = ["hybrid.ratio=1:0", "hybrid.placement=last"]
    assert compose(alone).check(1) == [
        f"{said} needs hybrid.mixer: say hybrid.mixer=G, or leave it out" for said in sorted(alone)
    ]
    problems = compose([*said, "hybrid.mixer=X", "hybrid.ratio=2:1"]).hybrid.check(4)
    assert [problem.partition(":")[0] for problem in problems] == [
        "hybrid.mixer=X is no mixer",
        "hybrid.ratio=2",
    ]
