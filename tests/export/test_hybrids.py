"""A hybrid from a transformer: every number comes from where it should, or is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from cases import BASE, CUSTOM, HEADS, NATIVE, PLAIN, checkpoint, weights

from lmtrain.config import compose, read
from lmtrain.export.export import export
from lmtrain.export.hybrid import Hybrid
from lmtrain.export.hybrid_config import hybrid_config
from lmtrain.export.importing import import_folder
from lmtrain.export.verify import logits
from lmtrain.models.config import AttentionConfig, ModelConfig, NormConfig
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import draw
from lmtrain.settings.export import ExportConfig, ImportConfig
from lmtrain.train.stored import Stored

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SOURCE = replace(BASE, pattern="A", n_layers=4, attention=PLAIN)
GATED = replace(
    SOURCE,
    attention=AttentionConfig(**HEADS, output_gate=True),
    norm=NormConfig(zero_centered=True),
)


def ask(pattern: str, *words: str) -> ImportConfig:
    return compose(["folder=a", "out=b", f"pattern='{pattern}'", *words], "import")


def convert(source: ModelConfig, pattern: str, *words: str) -> tuple[Hybrid, dict[str, Tensor]]:
    config = ask(pattern, *words)
    hybrid = Hybrid(source, hybrid_config(source, config), weights(source).__getitem__, config.seed)
    with torch.device("meta"):
        names = [name for name, _ in Decoder(hybrid.model).named_parameters()]
    return hybrid, {name: hybrid[name] for name in names}


@pytest.mark.parametrize("source", [SOURCE, GATED], ids=["plain", "gated"])
@pytest.mark.parametrize("pattern", ["GGGA", "MAWG"])
def test_letters_that_stay_keep_their_weights_and_back_again_it_is_the_teacher(
    source: ModelConfig, pattern: str
) -> None:
    ours = weights(source)
    hybrid, made = convert(source, pattern)
    assert not any(tensor.isnan().any() for tensor in made.values())
    new = tuple(f"blocks.{i}.mixers." for i in hybrid.made)
    kept = {name for name in made if not name.startswith(new)}
    back = {name: made[name] if name in kept else x for name, x in ours.items()}
    assert kept <= ours.keys()
    assert all(torch.equal(made[name], ours[name]) for name in kept)
    if "W" not in pattern:
        tokens = torch.randint(257, (50,), generator=torch.Generator().manual_seed(1))
        teacher = logits(source, tokens, ours.__getitem__)
        assert torch.equal(logits(source, tokens, back.__getitem__), teacher)
        assert not torch.equal(logits(hybrid.model, tokens, made.__getitem__), teacher)
    assert hybrid.counts["kept"] == sum(made[name].numel() for name in kept)
    assert sum(hybrid.counts.values()) == sum(x.numel() for x in made.values())
    assert 0 < hybrid.counts["drawn"] < hybrid.counts["mapped"]


def parts(tensor: Tensor, *sizes: int) -> tuple[Tensor, ...]:
    assert sum(sizes) == len(tensor)
    return tensor.split(sizes)


def test_delta_reads_and_writes_with_the_projections_of_attention() -> None:
    ours, (hybrid, made) = weights(SOURCE), convert(SOURCE, "GGGA")
    shape = hybrid.model.gated_deltanet
    assert (shape.key_heads, shape.value_heads, shape.key_dim, shape.value_dim) == (4, 4, 8, 8)
    at = "blocks.1.mixers.0."
    q, k, v = parts(ours[f"{at}in_proj.weight"], 32, 16, 16)
    new_q, new_k, new_v, gate, rest = parts(made[f"{at}in_proj.weight"], 32, 32, 32, 32, 8)
    assert torch.equal(new_q, q)
    for new, old in ((new_k, k), (new_v, v)):
        repeated = old.unflatten(0, (2, 8))[[0, 0, 1, 1]]  # as grouped queries do
        assert torch.equal(new.unflatten(0, (4, 8)), repeated)
    assert torch.equal(made[f"{at}out_proj.weight"], ours[f"{at}out_proj.weight"])
    with torch.device("meta"):
        blank = Decoder(hybrid.model)
    drawn = draw(blank, f"{at}in_proj.weight", made[f"{at}in_proj.weight"].shape, seed=0)
    assert torch.equal(torch.cat([gate, rest]), drawn[96:])
    for name in ("A_log", "dt_bias", "norm.weight"):
        assert torch.equal(made[at + name], draw(blank, at + name, made[at + name].shape, seed=0))
    assert made[f"{at}conv_weight"].tolist() == [[0.0] * 96] * 3 + [[1.0] * 96]


@pytest.mark.parametrize("width", [8, 12])
def test_mamba_reads_and_writes_with_the_projections_of_attention(width: int) -> None:
    """Also where the heads together are no multiple of the stream's width."""
    source, inner = replace(SOURCE, attention=replace(PLAIN, head_dim=width)), 4 * width
    ours, (hybrid, made) = weights(source), convert(source, "AM", "mamba2.conv_width=3")
    shape = hybrid.model.mamba2
    assert (shape.inner, shape.head_dim, shape.state_dim, shape.groups) == (inner, width, width, 4)
    at = "blocks.3.mixers.0."
    q, k, v = parts(ours[f"{at}in_proj.weight"], inner, inner // 2, inner // 2)
    _, x, B, C, _ = parts(made[f"{at}in_proj.weight"], *[inner] * 4, 4)
    assert torch.equal(C, q)
    assert torch.equal(B.unflatten(0, (4, width)), k.unflatten(0, (2, width))[[0, 0, 1, 1]])
    assert torch.equal(x.unflatten(0, (4, width)), v.unflatten(0, (2, width))[[0, 0, 1, 1]])
    assert torch.equal(made[f"{at}out_proj.weight"], ours[f"{at}out_proj.weight"])
    assert made[f"{at}conv_weight"].shape == (3, 3 * inner)


def test_scales_of_head_norms_and_gates_come_along() -> None:
    """Rows that meet a normalisation of their head give the directions that the attention saw."""
    ours, (_, made) = weights(GATED), convert(GATED, "G")
    at = "blocks.0.mixers.0."
    x = torch.randn(32, generator=torch.Generator().manual_seed(0))
    q, k, _, gate = parts(ours[f"{at}in_proj.weight"], 32, 16, 16, 32)
    new_q, new_k, _, new_gate, _ = parts(made[f"{at}in_proj.weight"], 32, 32, 32, 32, 8)
    assert torch.equal(new_gate, gate)
    for new, old, scale in ((new_q, q, "q_norm"), (new_k[:16], k[:8], "k_norm")):
        seen = (old @ x).view(-1, 8) * (1 + ours[f"{at}{scale}.weight"])
        here = (new @ x).view(-1, 8)
        cosine = torch.nn.functional.cosine_similarity(here, seen.expand_as(here), dim=-1)
        assert cosine == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_other_numbers_of_value_heads_write_the_same_where_heads_agree(heads: int) -> None:
    """Repeated heads are added up to what one did; a group with one value, to its sum."""
    ours = weights(SOURCE)
    words = [f"gated_deltanet.value_heads={heads}", f"gated_deltanet.key_heads={min(heads, 4)}"]
    _, made = convert(SOURCE, "G", *words)
    o = ours["blocks.0.mixers.0.out_proj.weight"].unflatten(1, (4, 8))
    new = made["blocks.0.mixers.0.out_proj.weight"].unflatten(1, (heads, 8))
    y = torch.randn(8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.einsum("dhv,v->d", new, y), torch.einsum("dhv,v->d", o, y))


def test_widths_that_do_not_fit_are_drawn_and_told() -> None:
    hybrid, made = convert(SOURCE, "GGGA", "gated_deltanet.value_dim=12")
    q = weights(SOURCE)["blocks.0.mixers.0.in_proj.weight"][:32]
    assert torch.equal(made["blocks.0.mixers.0.in_proj.weight"][:32], q)
    assert made["blocks.0.mixers.0.conv_weight"][0, 64:].abs().min() > 0  # of v, as initialised
    lines = hybrid.summary().splitlines()
    assert [line.split()[:2] for line in lines] == [
        [word, f"{count:,}"] for word, count in hybrid.counts.items()
    ]
    assert "G in blocks 0, 1, 2" in lines[1]


@pytest.mark.parametrize(
    ("source", "pattern", "words", "why"),
    [
        (SOURCE, "A", [], "that is what the source is"),
        (SOURCE, "GGgA", [], "block 2 is A in the source and g in the word: an MLP neither comes"),
        (SOURCE, "[AG]", [], "mixers side by side have norms that the source lacks"),
        (SOURCE, "GX", [], "'X' is no mixer"),
        (SOURCE, "GGGAA", [], "longer than model.n_layers=4"),
        (SOURCE, "G", ["window=8"], "window shapes a new W, and pattern=G makes none"),
        (SOURCE, "W", ["mamba2.groups=2"], "mamba2.groups shapes a new M"),
        (SOURCE, "G", ["gated_deltanet.key_heads=3"], "key_heads=3 does not divide"),
        (NATIVE["olmo3"][1], "WGA", [], "its norms come after mixer and MLP"),
        (NATIVE["qwen3_5"][1], "MGA", [], "only attention alone can become another mixer"),
        (CUSTOM["all four"], "GAMA", [], "the two differ in qk_norm|output_gate"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(
    source: ModelConfig, pattern: str, words: list[str], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        hybrid_config(source, ask(pattern, *words))


def test_shapes_without_a_pattern_are_refused() -> None:
    problems = compose(["folder=a", "out=b", "mamba2.groups=2"], "import").check()
    assert problems == [
        "mamba2.groups=2 shapes new mixers, and pattern is not set: say pattern=GGGA, or leave it "
        "out"
    ]


def test_a_hybrid_takes_more_letters_where_they_fit() -> None:
    """A source that has recurrences keeps them, and their shape."""
    source = NATIVE["qwen3_5"][1]
    hybrid, made = convert(source, "GGG")
    assert hybrid.model.gated_deltanet == source.gated_deltanet
    assert list(hybrid.made) == [2]
    ours = weights(source)
    assert all(torch.equal(made[n], ours[n]) for n in made if n.startswith("blocks.0."))


def test_a_folder_becomes_a_checkpoint_of_a_hybrid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = checkpoint(tmp_path / "source", SOURCE), tmp_path / "folder"
    export(ExportConfig(checkpoint=str(source), out=str(folder), verify=False))
    config = ImportConfig(folder=str(folder), out=str(tmp_path / "out"), pattern="GGGA")
    capsys.readouterr()
    out = import_folder(config)
    hybrid, made = convert(read(source / "config.yaml").model, "GGGA")
    stored = Stored.checkpoint(out / "model")
    assert stored.keys() == made.keys()
    assert all(torch.equal(stored[name], made[name]) for name in made)
    assert hybrid.summary() in capsys.readouterr().out
    words = ["model=imported", f"hydra.searchpath=[file://{out / 'configs'}]"]
    assert compose(words).model == read(out / "config.yaml").model
