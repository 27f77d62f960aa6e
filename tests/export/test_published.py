"""Folders of published models: what their ``config.json`` says is what is computed, or refused."""

from __future__ import annotations

import json
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
import torch
from asking import stored
from cases import weights
from published import (
    FALCON_H1,
    GRANITE,
    GRANITE_3,
    LLAMA,
    LLAMA_3,
    MAMBA2,
    MISTRAL,
    NEMOTRON,
    QWEN3,
    QWEN3_5,
    READ,
    WITH_IMAGES,
)
from safetensors.torch import save_file

from lmtrain.data.tokenize import bytes_tokenizer
from lmtrain.export.export import export
from lmtrain.export.folding import Factors, folded
from lmtrain.export.importing import import_folder
from lmtrain.export.reading import TARGETS, completed, find_target, language, read_model
from lmtrain.export.trained import Trained
from lmtrain.export.verify import logits
from lmtrain.export.weights import entries, incoming, plan, write_weights
from lmtrain.settings.export import ExportConfig, Home, ImportConfig

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.models.config import ModelConfig

TOKENS = torch.randint(257, (100,), generator=torch.Generator().manual_seed(1))
TO_LLAMA = {"Mistral 7B v0.3", "Granite 3.1", "Granite 4 of attention"}
"""Where two architectures compute a stack."""
FOLDED = {
    *("Granite 3.1", "Granite 4 hybrid", "Granite 4 of attention"),
    *("Falcon-H1", "Falcon-H1 with norms"),
}
"""Whose weights come back multiplied."""


def understood(said: dict[str, Any], folder: Path) -> ModelConfig:
    inner = language(said, folder)
    return read_model(find_target(inner, folder), inner, folder)


def told(said: dict[str, Any]) -> dict[str, Any]:
    """The factors of a ``config.json``, comparable."""
    target = TARGETS[said["model_type"]]
    factors = target.factors(completed(target, said))
    return {end: torch.as_tensor(factor).tolist() for end, factor in factors.items()}


def published(folder: Path, said: dict[str, Any]) -> ModelConfig:
    """A folder of this ``config.json``, with hard weights; and what lmtrain takes it for."""
    folder.mkdir()
    target, model = TARGETS[said["model_type"]], understood(said, folder)
    files = plan(entries(target, model, torch.float32), 10**9)
    drawn = weights(model).__getitem__
    write_weights(folder, files, target.links(model), drawn, torch.float32)
    (folder / "config.json").write_text(json.dumps(said))
    bytes_tokenizer().save(str(folder / "tokenizer.json"))
    return model


@torch.no_grad()
def asked(folder: Path) -> torch.Tensor:
    """The logits of transformers, in this process."""
    transformers = pytest.importorskip("transformers")
    loaded, told = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
    )
    assert not any(told.values()), told
    return loaded.eval()(input_ids=TOKENS[None], use_cache=False).logits[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_a_published_model_computes_here_what_it_does_there(name: str, tmp_path: Path) -> None:
    """Under its own ``config.json``, and under the one that goes out again."""
    source = tmp_path / "source"
    model = published(source, READ[name])
    theirs = asked(source)
    back = import_folder(ImportConfig(folder=str(source), out=str(tmp_path / "back")))
    trained = Trained.open(back)
    assert trained.run.model == model
    ours = logits(model, TOKENS, trained.tensors.__getitem__)
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    how = ExportConfig(checkpoint=str(back), out=str(tmp_path / "again"), target=Home.native)
    how.verify = False
    again = export(how)
    assert again
    kind = json.loads((again / "config.json").read_text())["model_type"]
    assert kind == ("llama" if name in TO_LLAMA else READ[name]["model_type"])
    here, there = stored(again), stored(source)
    assert here.keys() == there.keys() or name in TO_LLAMA
    if name not in FOLDED:
        assert all(torch.equal(here[each], there[each]) for each in there)
    assert (asked(again) - theirs).norm() <= 1e-5 * theirs.norm()


SCALED = {
    "Granite 3": {**GRANITE_3, "head_dim": 12},
    "Granite 4": {**GRANITE, "position_embedding_type": "rope"},
    "Falcon-H1": {
        **{**FALCON_H1, "tie_word_embeddings": True, "mamba_rms_norm": True},
        **{"attention_in_multiplier": 0.7, "mamba_n_groups": 3},
    },
}
"""With every multiplier away from one, tied."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALED)
def test_every_factor_is_needed(name: str, tmp_path: Path) -> None:
    """Without any one of them, and with rows of another place, the logits are others."""
    said, source = SCALED[name], tmp_path / "source"
    model, target = published(source, said), TARGETS[said["model_type"]]
    theirs, tensors, links = asked(source), stored(source), list(target.links(model))

    def error(factors: Factors) -> float:
        ours = logits(model, TOKENS, incoming(links, folded(tensors.__getitem__, factors)))
        return float((ours - theirs).norm() / theirs.norm())

    factors = target.factors(completed(target, said))
    assert error(factors) <= 1e-5
    named = {end: x for end, x in factors.items() if any(each.endswith(end) for each in tensors)}
    assert len(named) >= 5
    for end, factor in named.items():
        assert error({key: x for key, x in factors.items() if key != end}) > 1e-3, end
        if isinstance(factor, torch.Tensor):
            for place in (factor[1:] != factor[:-1]).flatten().nonzero():
                moved = factor.clone()
                moved[place + 1] = factor[place]
                assert error({**factors, end: moved}) > 1e-5, place


@pytest.mark.parametrize("said", SCALED.values(), ids=SCALED)
def test_factors_meet_half_precision_in_full(
    said: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder in bf16 is read, then multiplied: what was stored is rounded once."""
    source = tmp_path / "source"
    published(source, said)
    half = {name: x.bfloat16() for name, x in stored(source).items()}
    save_file(half, source / "model.safetensors")
    back = import_folder(ImportConfig(folder=str(source), out=str(tmp_path / "back")))
    scale = said["embedding_multiplier"]
    assert f"into the weights: embedding_multiplier={scale}, " in capsys.readouterr().out
    ours = Trained.open(back).tensors
    embedding = half["model.embed_tokens.weight"].float()
    assert torch.equal(ours["embedding.weight"], embedding * scale)
    falcon = said["model_type"] == "falcon_h1"
    norm = half["model.final_layernorm.weight" if falcon else "model.norm.weight"].float()
    logit = said.get("lm_head_multiplier") or 1 / said["logits_scaling"]
    assert torch.equal(ours["norm.weight"], norm * (logit / scale))


@pytest.mark.long
@pytest.mark.parametrize("name", READ)
def test_a_published_model_goes_out_again_with_its_proof(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    published(tmp_path / "source", READ[name])
    back = import_folder(ImportConfig(folder=str(tmp_path / "source"), out=str(tmp_path / "back")))
    assert export(ExportConfig(checkpoint=str(back), out=str(tmp_path / "again")))


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_silence_means_what_it_means_to_transformers(name: str, tmp_path: Path) -> None:
    """Each key left out in turn: the same stack as theirs with every default, or a refusal."""
    transformers = pytest.importorskip("transformers")
    refused, followed = [], []
    for key in READ[name].keys() - {"model_type", "vocab_size"}:
        said = {k: v for k, v in READ[name].items() if k != key}
        try:
            found = understood(said, tmp_path)
        except ValueError:
            refused.append(key)
            continue
        (tmp_path / "config.json").write_text(json.dumps(said))
        whole = transformers.AutoConfig.from_pretrained(tmp_path).to_dict()
        assert found == understood(whole, tmp_path), key
        assert told(said) == told(whole), key
        followed.append(key)
    assert followed
    assert not {"rope_scaling", "tie_word_embeddings", "attention_bias"} & set(refused)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({**GRANITE, "num_local_experts": 4}, "says num_local_experts=4: of granitemoehybrid"),
        ({k: v for k, v in GRANITE.items() if k != "num_local_experts"}, "is silent, which means"),
        ({**GRANITE, "attention_bias": True}, "says attention_bias=True"),
        ({**GRANITE, "logits_scaling": 0}, "logits_scaling=0: a multiplier must be a number above"),
        ({**GRANITE, "residual_multiplier": -0.22}, "=-0.22: a multiplier must be a number above"),
        ({**GRANITE, "embedding_multiplier": None}, "embedding_multiplier=None: a multiplier must"),
        ({**FALCON_H1, "ssm_multipliers": [1.0] * 4}, "there must be 5"),
        ({**FALCON_H1, "mlp_multipliers": [1.0, inf]}, "a multiplier must be a number above 0"),
        ({**FALCON_H1, "mamba_proj_bias": True}, "says mamba_proj_bias=True: of falcon_h1"),
        ({**FALCON_H1, "projectors_bias": True}, "says projectors_bias=True: of falcon_h1"),
        ({**FALCON_H1, "mlp_bias": True}, "says mlp_bias=True: of falcon_h1"),
        ({**FALCON_H1, "attention_bias": True}, "says attention_bias=True: of falcon_h1"),
        ({**FALCON_H1, "time_step_limit": [0.001, 0.1]}, "step sizes between 0.001 and 0.1"),
        ({**FALCON_H1, "mamba_d_head": 24}, "says mamba_n_heads=3: of falcon_h1"),
        (
            {**FALCON_H1, "mamba_rms_norm": True, "mamba_norm_before_gate": True},
            "says mamba_norm_before_gate=True: of falcon_h1",
        ),
        ({**QWEN3, "partial_rotary_factor": 0.25}, "positions are default over 0.25 of a head"),
        (
            {**FALCON_H1, "mamba_d_ssm": -8},
            "says mamba_d_ssm=-8: it must be a whole number above 0",
        ),
        ({**FALCON_H1, "mamba_n_heads": 0}, "says mamba_n_heads=0: it must be"),
        ({**GRANITE, "mamba_n_groups": 1.5}, "says mamba_n_groups=1.5: it must be"),
        ({**GRANITE, "num_attention_heads": 0}, "says num_attention_heads=0: it must be"),
        ({**QWEN3_5, "num_hidden_layers": 0}, "says num_hidden_layers=0: it must be"),
        ({**LLAMA, "max_position_embeddings": 1.5}, "says max_position_embeddings=1.5: it must be"),
        ({**QWEN3, "layer_types": ["full_attention"] * 9}, "layers=2, but 9 layer_types"),
        ({**LLAMA, "vocab_size": "320"}, "says vocab_size=320: it must be"),
        (
            {**QWEN3_5, "rope_parameters": None, "partial_rotary_factor": None},
            "over None of a head: lmtrain has default, linear, yarn, llama3, over a number up to 1",
        ),
        ({**QWEN3_5, "head_dim": 12}, "0.25 of 12 dimensions is 3: rotary positions need pairs"),
        ({**NEMOTRON, "hybrid_override_pattern": "M-ME-"}, "a layer of kind E"),
        ({**NEMOTRON, "mamba_num_heads": 5}, "2 does not divide the 5 heads"),
        ({**NEMOTRON, "use_bias": True}, "says use_bias=True: of nemotron_h"),
        ({**MAMBA2, "time_step_limit": [0.001, 0.1]}, "step sizes between 0.001 and 0.1"),
        ({**MISTRAL, "hidden_act": "gelu"}, "says hidden_act=gelu"),
        ({**LLAMA, "mlp_bias": True}, "says mlp_bias=True"),
        ({**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "positions are dynamic"),
        (
            {**LLAMA, "rope_scaling": {**LLAMA_3["rope_scaling"], "low_freq_factor": 8.0}},
            "low_freq_factor=8.0 with high_freq_factor=4.0",
        ),
        ({**QWEN3, "use_sliding_window": True, "sliding_window": 8, "layer_types": [""]}, "''"),
    ],
)
def test_what_lmtrain_does_not_compute_is_refused(
    said: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        understood(said, tmp_path)


@pytest.mark.slow
def test_the_language_model_of_a_model_with_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Qwen3.5 is published: its configuration inside, its names longer, and more tensors."""
    source = tmp_path / "source"
    model = published(source, QWEN3_5)
    alone = asked(source)
    tensors = {
        name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in stored(source).items()
    }
    more = {"model.visual.blocks.0.attn.qkv.weight": torch.ones(48, 16), "mtp.fc.weight": alone}
    save_file(tensors | more, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(WITH_IMAGES))
    theirs = asked(source)
    assert torch.equal(theirs, alone)
    back = import_folder(ImportConfig(folder=str(source), out=str(tmp_path / "back")))
    assert "left out: 2 tensors that serve no next token" in capsys.readouterr().out
    trained = Trained.open(back)
    assert trained.run.model == model
    ours = logits(model, TOKENS, trained.tensors.__getitem__)
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_what_is_said_inside_counts_and_then_what_is_said_around(tmp_path: Path) -> None:
    text = {key: value for key, value in QWEN3_5.items() if key != "tie_word_embeddings"}
    for around in (True, False):
        for own, expected in (({}, around), ({"tie_word_embeddings": True}, True)):
            said = {**WITH_IMAGES, "text_config": {**text, **own}, "tie_word_embeddings": around}
            assert understood(said, tmp_path).tie_embeddings is expected
    with pytest.raises(ValueError, match="has no text_config: it names no language model"):
        understood({**WITH_IMAGES, "text_config": None}, tmp_path)


def test_windows_of_qwen3_begin_where_it_says(tmp_path: Path) -> None:
    said = {**QWEN3, "use_sliding_window": True, "sliding_window": 8, "num_hidden_layers": 4}
    assert understood(said, tmp_path).pattern == "AAWW"
    assert understood({**said, "max_window_layers": 4}, tmp_path).pattern == "A"
    assert understood({**said, "use_sliding_window": False}, tmp_path).pattern == "A"


def test_tensors_that_no_model_reads_are_left_out(tmp_path: Path) -> None:
    """Tables of positions of old checkpoints; heads that predict tokens further on."""
    source = tmp_path / "source"
    model = published(source, LLAMA)
    tensors = stored(source)
    more = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "mtp.fc.weight": torch.ones(2, 2),
    }
    save_file(tensors | more, source / "model.safetensors")
    back = import_folder(ImportConfig(folder=str(source), out=str(tmp_path / "back")))
    assert Trained.open(back).run.model == model


@pytest.mark.parametrize("text", ["[]", '{"model_type": ["llama"]}', "{"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="is not a configuration of transformers|cannot be read"):
        import_folder(ImportConfig(folder=str(tmp_path), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
