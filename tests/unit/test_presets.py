"""Presets and sizes: what they hold, and that every pair of them is a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmtrain.config import compose, config_dir
from lmtrain.models.accounting import ModelCost
from lmtrain.models.decoder import Decoder
from lmtrain.models.pattern import parse

SIZES = {"20m": 20e6, "160m": 160e6, "340m": 340e6, "1b": 1e9, "3b": 3e9, "8b": 8e9}
ENDS = ("20m", "8b")
WIDTHS = ("width_32", "width_64", "width_128")
# fmt: off
# ruff: noqa: E501  one row a preset
PARAMETERS = {  # with a vocabulary of 32,000
    "falcon_h1_hybrid": (24_766_912, 205_789_648, 418_742_400, 1_341_223_808, 3_736_479_680, 8_895_121_408),
    "gated_deltanet":   (21_112_192, 166_475_248, 336_974_208, 1_079_137_408, 3_274_194_752, 8_056_481_792),
    "granite_hybrid":   (23_420_240, 191_459_856, 389_306_944, 1_240_756_096, 3_731_477_792, 8_991_706_240),
    "griffin":          (22_912_008, 185_839_600, 374_873_600, 1_204_477_568, 3_536_017_760, 8_569_301_248),
    "hybrid_3to1":      (21_096_032, 166_398_388, 336_826_656, 1_078_728_288, 3_184_910_704, 7_852_796_416),
    "hybrid_6to1":      (21_104_112, 166_444_504, 336_900_432, 1_078_973_760, 3_223_175_296, 7_954_639_104),
    "jamba":            (23_420_496, 191_460_112, 386_901_600, 1_240_756_608, 3_731_478_560, 8_931_363_328),
    "mamba2":           (22_017_024, 175_189_568, 349_619_712, 1_099_509_248, 3_332_080_384, 6_808_776_704),
    "mamba2_hybrid":    (23_420_496, 190_054_984, 386_901_600, 1_231_686_848, 3_698_901_760, 8_871_019_648),
    "nemotron_hybrid":  (21_414_840, 169_771_904, 340_974_464, 1_083_147_264, 3_288_820_960, 6_226_958_592),
    "olmo_hybrid":      (21_097_568, 166_405_428, 336_838_176, 1_078_747_488, 3_184_937_584, 7_852_835_328),
    "parallel":         (24_777_152, 205_822_928, 418_794_624, 1_341_310_848, 3_736_658_880, 8_895_391_744),
    "qwen3_5_hybrid":   (21_358_176, 169_347_508, 343_118_112, 1_099_699_808, 3_250_970_992, 7_987_014_144),
    "samba":            (22_403_520, 180_219_088, 365_251_200, 1_168_198_528, 3_373_133_760, 8_207_239_168),
    "transformer":      (21_047_552, 166_167_808, 336_384_000, 1_077_500_928, 2_917_058_560, 7_241_740_288),
}
# fmt: on


@pytest.mark.parametrize(
    "size", [size if size in ENDS else pytest.param(size, marks=pytest.mark.long) for size in SIZES]
)
@pytest.mark.parametrize("preset", PARAMETERS)
def test_a_preset_has_its_parameters_at_every_size(preset: str, size: str) -> None:
    expected = dict(zip(SIZES, PARAMETERS[preset], strict=True))[size]
    config = compose([f"model={preset}", f"model/size={size}", "model.vocab_size=32000"]).model
    assert config.check() == []
    assert ModelCost.of(config).total.parameters == expected
    assert abs(expected / SIZES[size] - 1) < 0.35
    with torch.device("meta"):
        assert sum(p.numel() for p in Decoder(config).parameters()) == expected


def test_every_shipped_preset_is_in_the_table() -> None:
    shipped = {path.stem for path in Path(config_dir(), "model").glob("*.yaml")}
    assert shipped == {*PARAMETERS, "debug"}
    sizes = {path.stem for path in Path(config_dir(), "model", "size").glob("*.yaml")}
    assert sizes == {*SIZES, *WIDTHS, "debug"}


def test_the_sizes_of_the_sweep_of_widths_are_models_of_one_another() -> None:
    for size in WIDTHS:
        overrides = [f"model/size={size}", "optim.base_width=32"]
        assert compose(overrides).check(world_size=1) == []


def test_the_mamba2_hybrid_holds_the_published_shares() -> None:
    config = compose(["model=mamba2_hybrid", "model.n_layers=28"]).model
    blocks = parse(config.pattern, config.n_layers)
    halves = "".join(letter + "-" * block.mlp for block in blocks for letter in block.mixers)
    shares = {letter: round(100 * halves.count(letter) / len(halves)) for letter in "MA-"}
    assert shares == {"M": 43, "A": 7, "-": 50}


def test_the_debug_preset_holds_every_mixer() -> None:
    config = compose(["model=debug"]).model
    assert {letter for b in parse(config.pattern, config.n_layers) for letter in b.mixers} == set(
        "AWMG"
    )


def test_a_key_of_the_command_line_wins_over_preset_and_size() -> None:
    overrides = ["model=mamba2", "model/size=340m", "model.n_layers=3", "model.mamba2.expand=3"]
    config = compose(overrides).model
    assert (config.d_model, config.n_layers, config.mamba2.expand) == (1024, 3, 3)
