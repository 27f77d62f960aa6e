"""The tables of every target: complete, exact, and readable backwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from cases import AFTER, BASE, BESIDE, CUSTOM, NATIVE, WINDOW, checkpoint, weights

from lmtrain.config import compose
from lmtrain.export.card import advice
from lmtrain.export.custom import CUSTOM as OURS
from lmtrain.export.export import choose
from lmtrain.export.links import gated_queries
from lmtrain.export.native import NATIVE as TABLES
from lmtrain.export.positions import positions
from lmtrain.export.reading import TARGETS
from lmtrain.export.targets import word
from lmtrain.export.trained import Trained, blank
from lmtrain.export.verify import rounded
from lmtrain.models.rope import RopeKind, RopeScaling
from lmtrain.settings.export import ExportConfig, Home

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.export.targets import Target
    from lmtrain.models.config import ModelConfig

EVERY = {
    **{name: (TARGETS[kind], model) for name, (kind, model) in NATIVE.items()},
    "granite dense": (TARGETS["granite"], NATIVE["llama"][1]),
    **{f"custom {name}": (OURS, model) for name, model in CUSTOM.items()},
}


@pytest.mark.parametrize("name", EVERY)
def test_every_tensor_of_ours_goes_out_once_and_comes_back(name: str) -> None:
    target, model = EVERY[name]
    ours = [n for link in target.links(model) for n in link.ours]
    theirs = [n for link in target.links(model) for n in link.theirs]
    assert sorted(ours) == sorted(blank(model))
    assert len(set(theirs)) == len(theirs)
    drawn = weights(model)
    read = rounded(target.links(model), drawn.__getitem__, torch.float32)
    for key, tensor in drawn.items():
        torch.testing.assert_close(read(key), tensor, rtol=0, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", EVERY)
def test_a_description_reads_back_to_a_stack_that_is_described_the_same(name: str) -> None:
    target, model = EVERY[name]
    said = target.describe(model)
    again = target.read(said)
    assert not again.check()
    assert not target.blockers(again)
    assert target.describe(again) == said


@pytest.mark.parametrize("name", NATIVE)
def test_the_native_home_of_a_stack(name: str) -> None:
    kind, model = NATIVE[name]
    assert choose(model, Home.native).model_type == kind
    assert choose(model, Home.auto).model_type == kind
    assert choose(model, Home.custom) is OURS


@pytest.mark.parametrize(("name", "warns"), [("granite nope", True), ("falcon_h1 own", False)])
def test_only_where_old_versions_are_wrong_they_are_warned_of(
    name: str,
    warns: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    kind, model = NATIVE[name]
    trained = Trained.open(checkpoint(tmp_path / "checkpoint", model))
    told = " ".join(advice(TARGETS[kind], trained))
    assert "Do not pack documents" in told
    assert ("several groups" in told) is warns


def test_a_window_of_one_token_has_no_export() -> None:
    model = replace(BASE, pattern="GW", sliding_window=replace(WINDOW, window=1))
    for home in (Home.auto, Home.custom):
        with pytest.raises(ValueError, match=r"sliding_window\.window=1 has no export"):
            choose(model, home)
    assert choose(replace(model, pattern="G"), Home.auto) is OURS


def test_a_block_of_windows_can_be_mistral_or_qwen3_but_never_llama() -> None:
    window = NATIVE["mistral"][1]
    fitting = [t.model_type for t in TABLES if not t.blockers(window)]
    assert fitting == ["mistral"]


@pytest.mark.parametrize("name", CUSTOM)
def test_a_stack_without_native_home_is_told_which_field_is_in_the_way(name: str) -> None:
    assert choose(CUSTOM[name], Home.auto) is OURS
    with pytest.raises(ValueError, match=r"target=native.*nearest is \w+: model\..*target=custom"):
        choose(CUSTOM[name], Home.native)


def test_the_nearest_home_is_one_of_the_same_pattern() -> None:
    beside = compose(["model=parallel", "model.vocab_size=320"]).model
    with pytest.raises(ValueError, match=r"nearest is falcon_h1: model\.branch_norm=true"):
        choose(beside, Home.native)


def near(case: str, **fields: object) -> ModelConfig:
    """The stack of a case with one part of one section changed."""
    model = NATIVE[case][1]
    for key, value in fields.items():
        section, name = key.split("__")
        model = replace(model, **{section: replace(getattr(model, section), **{name: value})})
    return model


@pytest.mark.parametrize(
    ("model", "kind", "field"),
    [
        (near("llama", attention__rope=False), "llama", "model.attention.rope=false"),
        (near("llama", attention__output_gate=True), "llama", "model.attention.output_gate=true"),
        (near("llama", mlp__kind="relu2"), "llama", "model.mlp.kind=relu2"),
        (near("mistral", sliding_window__rope=False), "mistral", "model.sliding_window.rope=false"),
        (
            near("qwen3 windows", sliding_window__rope_theta=5.0),
            "qwen3",
            "model.sliding_window.rope_theta=5.0",
        ),
        (
            near("olmo3", attention__head_dim=16, sliding_window__head_dim=16),
            "olmo3",
            "model.attention.head_dim=16",
        ),
        (
            near("qwen3_5", gated_deltanet__beta_scale=2.0),
            "qwen3_5_text",
            "model.gated_deltanet.beta_scale=2.0",
        ),
        (near("qwen3_5", attention__qk_norm=False), "qwen3_5_text", "model.attention.qk_norm"),
        (replace(NATIVE["qwen3_5"][1], pattern="G"), "qwen3_5_text", "has no A"),
        (replace(NATIVE["olmo_hybrid"][1], pattern="A"), "olmo_hybrid", "has no G"),
        (near("olmo_hybrid", norm__eps=1e-6), "olmo_hybrid", "model.norm.eps=1e-06"),
        (
            near("olmo_hybrid", gated_deltanet__beta_scale=1.5),
            "olmo_hybrid",
            "model.gated_deltanet.beta_scale=1.5",
        ),
        (near("granite", attention__qk_norm=True), "granitemoehybrid", "model.attention.qk_norm"),
        (near("granite", attention__head_dim=16), "granitemoehybrid", "model.attention.head_dim"),
        (replace(NATIVE["granite"][1], pattern="A-M"), "granitemoehybrid", "an MLP alone"),
        (replace(NATIVE["granite"][1], pattern="[AM]"), "granitemoehybrid", "side by side"),
        (near("granite", mamba2__norm=False), "granitemoehybrid", "model.mamba2.norm=false"),
        (near("granite", mamba2__inner=48), "granitemoehybrid", "model.mamba2.inner=48"),
        (near("falcon_h1", attention__rope=False), "falcon_h1", "model.attention.rope=false"),
        (near("falcon_h1", attention__qk_norm=True), "falcon_h1", "model.attention.qk_norm=true"),
        (near("falcon_h1", mlp__kind="relu2"), "falcon_h1", "model.mlp.kind=relu2"),
        (replace(BESIDE, branch_norm=True), "falcon_h1", "model.branch_norm=true"),
        (replace(BESIDE, pattern="[AM]A"), "falcon_h1", "has blocks that are not [AM]"),
        (replace(BESIDE, pattern="[AMM]"), "falcon_h1", "has blocks that are not [AM]"),
        (near("nemotron", mamba2__norm=False), "nemotron_h", "model.mamba2.norm=false"),
        (near("nemotron", attention__rope=True), "nemotron_h", "model.attention.rope=true"),
        (near("nemotron", mlp__kind="swiglu"), "nemotron_h", "model.mlp.kind=swiglu"),
        (near("mamba2", mamba2__inner=48), "mamba2", "model.mamba2.inner=48, it needs a multiple"),
        (replace(NATIVE["mamba2"][1], pattern="mM"), "mamba2", "has MLPs"),
    ],
)
def test_a_blocker_names_its_field(model: ModelConfig, kind: str, field: str) -> None:
    target: Target = TARGETS[kind]
    assert any(field in blocker for blocker in target.blockers(model)), target.blockers(model)


def test_gates_and_queries_are_interleaved_by_head() -> None:
    q, k, v, gate = (torch.arange(n * 3.0).view(n, 3) + 100 * i for i, n in enumerate((4, 2, 2, 4)))
    rewrite = gated_queries(2, 2, 2, gated=True)
    both, k_, v_ = rewrite.out((torch.cat([q, k, v, gate]),))
    assert torch.equal(both, torch.cat([q[:2], gate[:2], q[2:], gate[2:]]))
    assert torch.equal(k_, k)
    assert torch.equal(v_, v)


@pytest.mark.parametrize(
    ("letters", "shortest"), [("GGGAGGGA", "GGGA"), ("mma", "mma"), ("aaa", "a"), ("GAG", "GA")]
)
def test_a_word_is_the_shortest_that_tiles(letters: str, shortest: str) -> None:
    assert word(letters) == shortest


def test_rotary_positions_in_both_spellings() -> None:
    plain = RopeScaling()
    whole = {"partial_rotary_factor": 1.0, "rope_scaling": plain}
    assert positions({"rope_theta": 5e5}) == {"rope_theta": 5e5, **whole}
    today = {"rope_theta": 1e4, "rope_type": "default"}
    found = positions({"rope_parameters": today})
    assert found == {"rope_theta": 1e4, **whole}
    for said in ({}, {"rope_parameters": {**today, "partial_rotary_factor": 0.25}}):
        part = {"rope_theta": 1e4, "partial_rotary_factor": 0.25, **said}
        found = positions(part, of_parts=True)
        assert found == {"rope_theta": 1e4, **whole, "partial_rotary_factor": 0.25}
    older = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "truncate": True}
    yarn = RopeScaling(kind=RopeKind.yarn, factor=4.0, original_length=64)
    found = positions({"rope_theta": 1e4, "rope_scaling": older})
    assert found == {"rope_theta": 1e4, **whole, "rope_scaling": yarn}
    llama3 = {
        **{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4},
        "original_max_position_embeddings": 64,
    }
    found = positions({"rope_theta": 1e4, "rope_scaling": llama3})
    assert found["rope_scaling"] == RopeScaling(
        kind=RopeKind.llama3, factor=8.0, original_length=64
    )
    with pytest.raises(KeyError, match="low_freq_factor"):
        positions({"rope_theta": 1e4, "rope_scaling": {**llama3, "low_freq_factor": None}})
    for said in (
        {"rope_theta": 1e4, "rope_scaling": {"type": "longrope", "factor": 2.0}},
        {"rope_theta": 1e4, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_theta": 1e4, "rope_scaling": {**older, "truncate": False}},
        {"rope_theta": 1e4, "rope_scaling": {**older, "mscale": 0.7}},
        {"rope_theta": 1e4, "rope_scaling": {**llama3, "beta_fast": 32}},
        {"rope_theta": 1e4, "partial_rotary_factor": 0.25},
    ):
        with pytest.raises(ValueError, match="rotary positions"):
            positions(said)


@pytest.mark.parametrize(
    ("said", "size"), [("5GB", 5 * 10**9), ("40 kb", 40_000), ("7mb", 7_000_000)]
)
def test_sizes(said: str, size: int) -> None:
    assert ExportConfig(shard_size=said).shard_bytes == size


def test_a_configuration_tells_all_its_problems() -> None:
    for size in ("huge", "5", "0GB"):
        problems = ExportConfig(shard_size=size).check()
        assert len(problems) == 3
        assert f"shard_size={size} is not a size" in problems[-1]


def test_norms_after_are_not_norms_before() -> None:
    """The two fields that OLMo's blocks need change what is computed, and nothing else does."""
    from lmtrain.export.verify import logits

    tokens = torch.arange(40)
    plain = replace(BASE, pattern="A")
    after = replace(BASE, pattern="A", attention=replace(AFTER, qk_norm_joint=False))
    drawn = weights(plain)
    one, two = (logits(model, tokens, drawn.__getitem__) for model in (plain, after))
    assert not torch.allclose(one, two, rtol=0.1)


@pytest.mark.parametrize(
    ("preset", "kind"),
    [
        ("qwen3_5_hybrid", "qwen3_5_text"),
        ("olmo_hybrid", "olmo_hybrid"),
        ("granite_hybrid", "granitemoehybrid"),
        ("falcon_h1_hybrid", "falcon_h1"),
        ("nemotron_hybrid", "nemotron_h"),
        ("transformer", "qwen3"),
        ("mamba2", "mamba2"),
        ("hybrid_3to1", "qwen3_5_text"),
    ],
)
@pytest.mark.parametrize("size", ["20m", "1b", "8b"])
def test_presets_have_the_native_home_of_their_name(preset: str, kind: str, size: str) -> None:
    model = compose([f"model={preset}", f"model/size={size}", "model.vocab_size=320"]).model
    assert choose(model, Home.native).model_type == kind
