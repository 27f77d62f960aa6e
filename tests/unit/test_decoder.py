"""Whole stacks: packing, generation, rematerialisation, initialisation, configuration."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmtrain.layout import SequenceLayout
from lmtrain.models.config import Mamba2Config, MlpConfig, MlpKind, ModelConfig, NormConfig
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.parallelize import rematerialize
from lmtrain.settings.engine import Remat

WORDS = ["A", "W", "M", "G", "GWMA", "gwma-", "[AM][GW]", "[am]-"]
LENGTHS = [1, 37, 1, 1, 80, 64, 3]


def config(pattern: str, **changes: object) -> ModelConfig:
    settings = ModelConfig(d_model=32, n_layers=6, pattern=pattern, vocab_size=61)
    settings.attention.kv_heads = settings.sliding_window.kv_heads = 2
    settings.attention.output_gate = True
    settings.attention.rope = False
    settings.sliding_window.window = 5
    settings.mamba2.head_dim, settings.mamba2.state_dim = 8, 6
    g = settings.gated_deltanet
    g.key_heads, g.key_dim, g.value_dim, g.beta_scale = 2, 8, 12, 2.0
    for name, value in changes.items():
        setattr(settings, name, value)
    assert settings.check() == []
    return settings


BARE = config(
    "[AM]",
    branch_norm=False,
    mamba2=Mamba2Config(inner=40, head_dim=8, state_dim=6, groups=5, norm=False),
)


def build(settings: ModelConfig, seed: int = 0) -> Decoder:
    with torch.device("meta"):
        model = Decoder(settings)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    initialize(model, seed=seed)
    return model.double()


def tokens(count: int) -> torch.Tensor:
    return torch.randint(61, (count,), generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("word", [*WORDS, "bare"])
def test_packed_documents_equal_each_alone(word: str) -> None:
    model, text = build(BARE if word == "bare" else config(word)), tokens(sum(LENGTHS))
    packed = model(text, SequenceLayout.of_lengths(LENGTHS))
    alone = [model(t, SequenceLayout.of_lengths([len(t)])) for t in text.split(LENGTHS)]
    assert (packed - torch.cat(alone)).abs().max() < 1e-10


@pytest.mark.parametrize("word", [*WORDS, "bare"])
def test_generation_equals_one_pass(word: str) -> None:
    """One token at a time, and in chunks of any size, also beyond the window and the chunk."""
    model, text = build(BARE if word == "bare" else config(word)), tokens(150)
    whole = model(text, SequenceLayout.of_lengths([150]))
    for cuts in ([1] * 150, [7, 1, 70, 1, 1, 70], [150], [2, 2, 2, 144]):
        state, logits = model.initial_states(), []
        for part in text.split(cuts):
            hidden, state = model.extend(part, state)
            logits.append(model.logits(hidden))
        assert (torch.cat(logits) - whole).abs().max() < 1e-10
        assert state.seen == 150


@pytest.mark.parametrize("word", ["W", "M", "G"])
def test_state_is_constant_in_size(word: str) -> None:
    model = build(config(word, n_layers=1))

    def size(count: int) -> int:
        state = model.initial_states()
        for part in tokens(count).split(1):
            _, state = model.extend(part, state)
        parts = [x for states in state.mixers for s in states for x in s]
        return sum(x.numel() for x in parts if isinstance(x, torch.Tensor))

    assert size(90) <= 2 * size(30)
    assert size(300) <= size(90)


def saved_bytes(model: Decoder, length: int) -> int:
    """What one document leaves behind for the backward pass."""
    storages: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    text = tokens(length)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        losses = model(text, SequenceLayout.of_lengths([length]), text)
    assert losses.total.requires_grad
    return sum(storages.values())


@pytest.mark.parametrize("word", ["A", "W", "M", "G"])
def test_memory_is_linear_in_the_document(word: str) -> None:
    model = build(config(word, n_layers=1)).float()
    one, two, four = (saved_bytes(model, length) for length in (1024, 2048, 4096))
    assert four - two == pytest.approx(2 * (two - one), rel=0.05)


def attention_flops(q: torch.Size, k: torch.Size, *_: object, **__: object) -> int:
    """Of torch's fused attention on a CPU, which its counter does not know."""
    documents, heads, queries, width = q
    return 4 * documents * heads * queries * k[2] * width


def flops(model: Decoder, length: int) -> int:
    """Of one document, forward and backward, but for the backward of the attention."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    text, layout = tokens(length), SequenceLayout.of_lengths([length])
    with FlopCounterMode(display=False, custom_mapping={fused: attention_flops}) as counter:
        model(text, layout, text).total.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("word", ["W", "M", "G"])
def test_work_is_linear_in_the_document(word: str) -> None:
    model = build(config(word, n_layers=1)).float()
    one, two, four = (flops(model, length) for length in (1024, 2048, 4096))
    assert four - two == pytest.approx(2 * (two - one), rel=0.01)


def test_work_of_attention_is_seen_to_be_quadratic() -> None:
    model = build(config("A", n_layers=1)).float()
    one, two, four = (flops(model, length) for length in (1024, 2048, 4096))
    assert four - two > 3 * (two - one)


def test_causality_token_by_token() -> None:
    model, text = build(config("GWMA")), tokens(70)
    layout = SequenceLayout.of_lengths([20, 50])
    before = model(text, layout)
    for t in (0, 19, 20, 45, 69):
        changed = text.clone()
        changed[t] = (changed[t] + 1) % 61
        after = model(changed, layout)
        end = 20 if t < 20 else 70
        assert torch.equal(before[:t], after[:t])
        assert torch.equal(before[end:], after[end:])
        assert not torch.equal(before[t], after[t])


@pytest.mark.parametrize("word", ["GWMA", "[AM]-"])
def test_remat_changes_nothing(word: str) -> None:
    text, layout = tokens(60), SequenceLayout.of_lengths([25, 35])
    grads = []
    for remat in (False, True):
        model = build(config(word))
        rematerialize(model, Remat.full if remat else Remat.none)
        model(text, layout, text.roll(-1)).total.backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        assert a is not None
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_embeddings": False},
        {"norm": NormConfig(zero_centered=True)},
        {"mlp": MlpConfig(kind=MlpKind.relu2)},
    ],
    ids=str,
)
def test_options_build_and_learn(changes: dict[str, object]) -> None:
    model, text = build(config("GA", **changes)), tokens(40)
    losses = model(text, SequenceLayout.of_lengths([40]), text.roll(-1))
    losses.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert abs(losses.nll.mean().item() - torch.tensor(61.0).log().item()) < 0.3


def test_initialisation_depends_on_seed_and_name_alone() -> None:
    short, deep = build(config("G", n_layers=2)), build(config("G", n_layers=6))
    key = "blocks.1.mixers.0.in_proj.weight"
    assert torch.equal(short.state_dict()[key], deep.state_dict()[key])
    assert not torch.equal(build(config("G"), seed=1).state_dict()[key], deep.state_dict()[key])
    assert all(p.isfinite().all() for p in deep.parameters())


def test_residual_projections_shrink_with_depth() -> None:
    model = build(config("Ga-", n_layers=3, d_model=64))
    assert model.residual_branches == 4
    weights = model.state_dict()
    plain = weights["blocks.0.mixers.0.in_proj.weight"].std().item()
    back = weights["blocks.0.mixers.0.out_proj.weight"].std().item()
    assert back == pytest.approx(plain / 2, rel=0.05)


def test_bf16_activations_keep_fp32_parameters() -> None:
    model = build(config("GWMA")).float()
    model.compute_dtype = torch.bfloat16
    text, layout = tokens(60), SequenceLayout.of_lengths([25, 35])
    logits = model(text, layout)
    assert logits.dtype == torch.bfloat16
    model(text, layout, text.roll(-1)).total.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    model.compute_dtype = None
    assert (model(text, layout) - logits.float()).norm() / logits.float().norm() < 0.03


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("attention.heads", 12, r"model\.attention\.heads=12 does not divide model\.d_model=32"),
        ("attention.kv_heads", 3, r"kv_heads=3 does not divide heads=4"),
        ("attention.head_dim", 7, r"head_dim=7 is odd"),
        ("sliding_window.window", 0, r"window=0 sees nothing"),
        ("mamba2.head_dim", 7, r"model\.mamba2\.head_dim=7 does not divide"),
        ("mamba2.inner", 36, r"model\.mamba2\.head_dim=8 does not divide inner = 36"),
        ("mamba2.inner", 0, r"model\.mamba2\.inner=0 must be at least 1"),
        ("mamba2.groups", 3, r"groups=3 does not divide the 8 heads"),
        ("mamba2.dt_min", 0.0, r"dt_min=0\.0 must be above 0"),
        ("gated_deltanet.key_heads", 3, r"key_heads=3 does not divide"),
        ("gated_deltanet.beta_scale", 3.0, r"beta_scale=3\.0"),
        ("attention.heads", 0, r"heads=0 must be at least 1"),
        ("vocab_size", 0, r"model\.vocab_size=0"),
        ("pattern", "GX", r"'X' is no mixer"),
    ],
)
def test_problems_name_key_value_and_remedy(path: str, value: object, message: str) -> None:
    settings = config("GWMA")
    settings.attention.rope = True
    *parents, name = path.split(".")
    owner = settings
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, value)
    (problem,) = settings.check()
    with pytest.raises(ValueError, match=message):
        raise ValueError(problem)


def test_all_problems_are_reported_together() -> None:
    settings = config("GWMA")
    settings.attention.heads, settings.sliding_window.window, settings.pattern = 5, 0, "("
    assert len(settings.check()) >= 3


def test_sections_that_the_pattern_has_not_are_not_judged() -> None:
    settings = config("M")
    settings.mamba2.head_dim = 7
    assert settings.check()
    settings.pattern = "GA"
    assert settings.check() == []
