"""Folders go out and come back bitwise; what is wrong is a sentence, and nothing is left."""

from __future__ import annotations

import json
import pickle
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from asking import stacks, stored
from cases import CUSTOM, NATIVE, checkpoint, seal, weights
from safetensors.torch import load_file, save_file
from tokenizers.processors import ByteLevel, TemplateProcessing

from lmtrain.cli import quoted
from lmtrain.config import RunConfig, compose, read
from lmtrain.data.tokenize import bytes_tokenizer
from lmtrain.evaluate.generate import Writer
from lmtrain.export import verify as verification
from lmtrain.export.export import export
from lmtrain.export.importing import import_folder
from lmtrain.settings.export import ExportConfig, Home, ImportConfig, StoredDtype
from lmtrain.train.stored import INDEX, Stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from runs import Run

LLAMA = NATIVE["llama"][1]


def config(source: Path, out: Path, **more: Any) -> ExportConfig:
    """Without the proof, which takes a process of transformers."""
    return ExportConfig(checkpoint=str(source), out=str(out), **{"verify": False, **more})


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder that came from a checkpoint."""
    source = checkpoint(tmp_path / "checkpoint", LLAMA)
    found = export(config(source, tmp_path / "llama"))
    assert found
    return found


def edit(path: Path, **values: Any) -> None:
    """Change keys of a JSON file; None takes one out."""
    said = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in said.items() if v is not None}))


@pytest.mark.parametrize("name", [*NATIVE, *(f"custom {name}" for name in CUSTOM)])
def test_out_and_back_and_out_is_bitwise(
    name: str, exported: dict[str, Path], tmp_path: Path
) -> None:
    folder, home = exported[name], stacks()[name][0]
    back = import_folder(ImportConfig(folder=str(folder), out=str(tmp_path / "back")))
    again = export(config(back, tmp_path / "again", target=home, shard_size="40KB"))
    assert again
    assert {p.name for p in again.iterdir()} == {p.name for p in folder.iterdir()}
    for path in folder.iterdir():
        if path.name != "README.md":
            assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_an_import_writes_a_checkpoint_that_writes(llama: Path, tmp_path: Path) -> None:
    out = import_folder(ImportConfig(folder=str(llama), out=str(tmp_path / "back")))
    writer = Writer.open(out)
    model = read(out / "config.yaml", RunConfig).model
    drawn = weights(LLAMA)
    for name, parameter in writer.model.named_parameters():
        if "mlp" not in name:  # a block had none and has one that adds nothing
            assert torch.equal(parameter, drawn[name]), name
    assert model.pattern == "A"


def test_a_card_claims_no_training_of_an_import(llama: Path, tmp_path: Path) -> None:
    back = import_folder(ImportConfig(folder=str(llama), out=str(tmp_path / "back")))
    again = export(config(back, tmp_path / "again"))
    assert again
    card, before = ((folder / "README.md").read_text() for folder in (again, llama))
    assert "A language model of other making, imported by lmtrain" in card
    for row in ("steps", "tokens seen", "data", "curriculum"):
        assert f"| {row} |" in before
        assert f"| {row} |" not in card
    assert "out of `suppress_tokens`" in card


def test_bf16_rounds_matrices_and_keeps_vectors(tmp_path: Path) -> None:
    model = NATIVE["qwen3_5"][1]
    source = checkpoint(tmp_path / "checkpoint", model)
    for dtype in StoredDtype:
        export(config(source, tmp_path / dtype, dtype=dtype))
    exact, half = stored(tmp_path / "fp32"), stored(tmp_path / "bf16")
    assert exact.keys() == half.keys()
    for name, tensor in exact.items():
        rounded = tensor.bfloat16() if tensor.dim() > 1 else tensor
        assert torch.equal(half[name], rounded), name
    assert json.loads((tmp_path / "bf16" / "config.json").read_text())["dtype"] == "bfloat16"


def test_files_hold_no_more_than_they_should(exported: dict[str, Path]) -> None:
    for folder in exported.values():
        index = json.loads((folder / INDEX).read_text())
        files = sorted(folder.glob("*.safetensors"))
        assert sorted(set(index["weight_map"].values())) == [file.name for file in files]
        total = 0
        for file in files:
            held = load_file(file)
            size = sum(x.nbytes for x in held.values())
            assert size <= 40_000 or len(held) == 1
            assert all(index["weight_map"][name] == file.name for name in held)
            total += size
        assert index["metadata"]["total_size"] == total


def test_a_checkpoint_of_several_processes_is_read_whole(tmp_path: Path) -> None:
    """Files as `torch.distributed.checkpoint` writes them: rows, and where they begin."""
    drawn = weights(LLAMA)
    source = checkpoint(tmp_path / "checkpoint", LLAMA, drawn)
    (source / "model" / "model-00001-of-00001.safetensors").unlink()
    for rank in range(3):
        parts, offsets = {}, {}
        for name, tensor in drawn.items():
            chunks = tensor.chunk(3)
            if rank < len(chunks):
                start = sum(len(chunk) for chunk in chunks[:rank])
                parts[name] = chunks[rank].clone()
                offsets[name] = {"saved_offsets": [start] + [0] * (tensor.dim() - 1)}
        file = f"shard-0000{rank + 1}-model-00001-of-00001.safetensors"
        about = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0"}
        save_file(parts, source / "model" / file, metadata=about)
    seal(source)
    whole = Stored.checkpoint(source / "model")
    assert all(torch.equal(whole[name], tensor) for name, tensor in drawn.items())
    out = export(config(source, tmp_path / "out"))
    assert out
    assert torch.equal(stored(out)["model.embed_tokens.weight"], drawn["embedding.weight"])
    (source / "model" / "shard-00002-model-00001-of-00001.safetensors").unlink()
    seal(source)
    with pytest.raises(ValueError, match="a file of a process is missing"):
        export(config(source, tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_trained_run_is_proven_before_it_gets_its_name(whole: Run, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "folder"
    config_ = ExportConfig(checkpoint=str(whole.folder), out=str(out), license="apache-2.0")
    assert export(config_) == out
    card = (out / "README.md").read_text()
    for said in ("license: apache-2.0", "validation loss", "`GWMA`", "trust_remote_code=True"):
        assert said in card
    assert "8 of 256 tokens" in card
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["suppress_tokens"] == list(range(257, 320))


@pytest.mark.long
@pytest.mark.parametrize("name", ["qwen3_5 own", "nemotron", "custom all four"])
def test_a_rounded_folder_is_proven_too(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    home, model = stacks()[name]
    source = checkpoint(tmp_path / "checkpoint", model)
    how = {"target": home, "dtype": StoredDtype.bf16, "verify": True}
    assert export(config(source, tmp_path / "out", **how))


def test_a_folder_that_computes_something_else_is_not_left(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slightly_off(folder: Path, tokens: torch.Tensor, *, code: bool) -> torch.Tensor:
        return verification.logits(LLAMA, tokens, weights(LLAMA).__getitem__) * (1 + 2e-5)

    source, out = llama.parent / "checkpoint", tmp_path / "out"
    monkeypatch.setattr(verification, "reload", slightly_off)
    with pytest.raises(ValueError, match="gives other logits than the trained model"):
        export(config(source, out, verify=True))
    assert not out.exists()
    assert not out.with_name("out.partial").exists()


@pytest.mark.slow
def test_the_proof_finds_the_packages_of_its_caller_but_not_lmtrain(
    llama: Path, exported: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    custom = shutil.copytree(exported["custom G"], tmp_path / "custom")
    code = custom / "modeling_lmtrain.py"
    code.write_text(f"import lmtrain.models\n{code.read_text()}")
    with pytest.raises(ValueError, match="import of lmtrain halted"):
        verification.reload(custom, torch.arange(3), code=True)
    fake = tmp_path / "packages" / "transformers"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("raise SystemExit('the one on PYTHONPATH')")
    monkeypatch.setenv("PYTHONPATH", str(fake.parent))
    with pytest.raises(ValueError, match="by transformers: the one on PYTHONPATH"):
        verification.reload(llama, torch.arange(3), code=False)


def test_a_folder_that_is_not_empty_stays(llama: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in llama.iterdir()}
    with pytest.raises(ValueError, match=r"out=.*llama is not empty: choose another"):
        export(config(llama.parent / "checkpoint", llama))
    with pytest.raises(ValueError, match=r"out=.*llama is not empty"):
        import_folder(ImportConfig(folder=str(llama), out=str(llama)))
    assert {path.name: path.read_bytes() for path in llama.iterdir()} == before


def test_dry_writes_nothing(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = config(llama.parent / "checkpoint", tmp_path / "dry", dry=True, shard_size="20KB")
    assert export(dry) is None
    told = capsys.readouterr().out
    assert "LlamaForCausalLM" in told
    assert "model-00001-of-" in told
    assert "qwen3: model.attention.qk_norm=false" in told
    assert not (tmp_path / "dry").exists()


def test_an_opening_token_opens_every_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tokenizers import Tokenizer

    source = checkpoint(tmp_path / "checkpoint", LLAMA)
    (source / "special_tokens.json").write_text('{"begin_of_text": 1, "end_of_text": 256}')
    seal(source)
    out = export(config(source, tmp_path / "out"))
    assert out
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert tokenizer.encode("a").ids == [1, 97]
    assert json.loads((out / "config.json").read_text())["bos_token_id"] == 1
    back = import_folder(ImportConfig(folder=str(out), out=str(tmp_path / "back")))
    around = json.loads((back / "special_tokens.json").read_text())
    assert around == {"begin_of_text": 1, "end_of_text": 256}
    *_, prepare, train = capsys.readouterr().out.splitlines()
    asked = compose(map(quoted, shlex.split(prepare)[2:]), "prepare")
    assert asked.begin_of_text == tokenizer.id_to_token(1)
    assert asked.end_of_text == tokenizer.id_to_token(256)
    assert Path(asked.tokenizer).is_file()
    assert f"data=store data.source={asked.out} run.weights={back}" in train


def surrounding(before: str, after: str) -> TemplateProcessing:
    """What puts tokens of the bytes tokenizer around a text."""
    known = [(token, TOKENS[token]) for token in (before, after) if token]
    return TemplateProcessing(single=f"{before} $A {after}".strip(), special_tokens=known)


TOKENS = bytes_tokenizer().get_vocab()
FIRST, END = "!", "<|endoftext|>"
PROCESSORS = {
    "none": None,
    "bytes": ByteLevel(trim_offsets=False),
    "begin": surrounding(FIRST, ""),
    "end": surrounding("", END),
    "both": surrounding(FIRST, END),
}


@pytest.mark.slow
@pytest.mark.parametrize("begin", [TOKENS[FIRST], None])
@pytest.mark.parametrize("processor", PROCESSORS)
def test_texts_get_the_tokens_around_them_that_documents_had(
    processor: str, begin: int | None, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer, source = bytes_tokenizer(), checkpoint(tmp_path / "checkpoint", LLAMA)
    tokenizer.post_processor = PROCESSORS[processor]
    tokenizer.save(str(source / "tokenizer.json"))
    around = {"begin_of_text": begin, "end_of_text": TOKENS[END]}
    (source / "special_tokens.json").write_text(json.dumps(around))
    seal(source)
    out = export(config(source, tmp_path / "out"))
    read_back = transformers.AutoTokenizer.from_pretrained(out)
    assert read_back("é")["input_ids"] == [*([] if begin is None else [begin]), *"é".encode()]
    back = import_folder(ImportConfig(folder=str(out), out=str(tmp_path / "back")))
    assert json.loads((back / "special_tokens.json").read_text()) == around


def test_a_resized_embedding_comes_back(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "checkpoint", CUSTOM["M"])
    folder = export(config(source, tmp_path / "folder"))
    assert folder
    tensors, name = load_file(folder / "model.safetensors"), "model.embed_tokens.weight"
    tensors[name] = torch.cat([tensors[name], tensors[name][:8]])
    save_file(tensors, folder / "model.safetensors")
    edit(folder / "config.json", vocab_size=328)
    back = import_folder(ImportConfig(folder=str(folder), out=str(tmp_path / "back")))
    assert read(back / "config.yaml", RunConfig).model.vocab_size == 328


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def renamed(path: Path) -> None:
    tensors = load_file(path)
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(32)
    save_file(tensors, path)


def smaller(path: Path) -> None:
    tensors = load_file(path)
    tensors["model.norm.weight"] = torch.zeros(31)
    save_file(tensors, path)


def index(folder: Path, text: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("[]"), "not a configuration of transformers"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: edit(f / "config.json", model_type="gpt2"), "model_type gpt2.*imports llama"),
        (
            lambda f: edit(f / "config.json", model_type="evil", auto_map={"AutoModel": "x.Y"}),
            "code of a folder is never run",
        ),
        (lambda f: edit(f / "config.json", hidden_size=None), "does not say 'hidden_size'"),
        (lambda f: edit(f / "config.json", hidden_size="big"), r"config\.json"),
        (lambda f: edit(f / "config.json", attention_bias=True), "attention_bias=True"),
        (lambda f: edit(f / "config.json", hidden_act="gelu"), "hidden_act=gelu.*has.*silu"),
        (
            lambda f: edit(f / "config.json", rope_scaling={"rope_type": "dynamic", "factor": 4.0}),
            "rotary positions are dynamic",
        ),
        (
            lambda f: edit(f / "config.json", vocab_size=128),
            r"lm_head.weight is \(320, 32\), expected \(128, 32\)",
        ),
        (lambda f: edit(f / "config.json", num_hidden_layers=4), r"layers\.3.*is absent"),
        (lambda f: broken(f / "model.safetensors"), r"model\.safetensors cannot be read"),
        (lambda f: renamed(f / "model.safetensors"), r"q_proj\.bias .*expected absent"),
        (lambda f: smaller(f / "model.safetensors"), r"norm\.weight is \(31,\), expected \(32,\)"),
        (lambda f: (f / "model.safetensors").unlink(), "only safetensors are read"),
        (lambda f: index(f, '{"weight_map": {"a": "../b"}}'), "not a file of its"),
        (lambda f: index(f, '{"weight_map": {"a": "b"}}'), "names b, which is miss"),
        (lambda f: index(f, "[]"), "not an index"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.*is missing"),
        *(
            (
                lambda f, end=end: edit(f / "config.json", eos_token_id=end),
                "eos_token_id=.*no token",
            )
            for end in (300, 10**20, -1, [], [[1]], "</s>", True)
        ),
    ],
)
def test_a_foreign_folder_that_cannot_be_read(
    change: Callable[[Path], object], words: str, llama: Path, tmp_path: Path
) -> None:
    change(llama)
    with pytest.raises(ValueError, match=words):
        import_folder(ImportConfig(folder=str(llama), out=str(tmp_path / "back")))
    assert not (tmp_path / "back").exists()
    assert not (tmp_path / "back.partial").exists()


def test_one_file_is_read_before_an_index(llama: Path) -> None:
    """As by transformers."""
    (llama / INDEX).write_text('{"weight_map": {"a": "b"}}')
    assert "model.embed_tokens.weight" in Stored.folder(llama)


def test_a_folder_appears_where_a_link_leads(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = llama.parent / "checkpoint"
    (tmp_path / "empty").mkdir()
    for there in ("empty", "nothing yet"):
        link = tmp_path / f"link to {there}"
        link.symlink_to(tmp_path / there)
        export(config(source, link))
        assert (tmp_path / there / "config.json").is_file()
        assert link.is_symlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"out=\. is the folder that you are in"):
        export(config(source, Path()))


class Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_neither_pickles_nor_code_of_a_folder_run(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported["custom all four"], tmp_path / "folder"))
    mark = tmp_path / "mark"
    for name in ("pytorch_model.bin", "training_args.bin", "tokenizer.pkl"):
        (folder / name).write_bytes(pickle.dumps(Trap(mark)))
    for file in folder.glob("*.py"):
        file.write_text(f"open({str(mark)!r}, 'w')")
    import_folder(ImportConfig(folder=str(folder), out=str(tmp_path / "back")))
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / INDEX).unlink()
    with pytest.raises(ValueError, match="only safetensors are read"):
        import_folder(ImportConfig(folder=str(folder), out=str(tmp_path / "other")))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: shutil.rmtree(f / "model"), "missing"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.*missing"),
    ],
)
def test_a_checkpoint_that_is_not_whole(
    change: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    source = checkpoint(tmp_path / "checkpoint", LLAMA)
    change(source)
    with pytest.raises(ValueError, match=words):
        export(config(source, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    drawn = weights(LLAMA)
    drawn["norm.weight"] = torch.ones(16)
    source = checkpoint(tmp_path / "checkpoint", LLAMA, drawn)
    with pytest.raises(ValueError, match=r"norm\.weight is \(16,\), expected \(32,\)"):
        export(config(source, tmp_path / "out"))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    source = checkpoint(tmp_path / "checkpoint", replace(LLAMA, vocab_size=256))
    with pytest.raises(ValueError, match=r"tokenizer of 257 tokens and model\.vocab_size=256"):
        export(config(source, tmp_path / "out"))


def test_no_native_home_is_told_before_anything_is_written(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "checkpoint", CUSTOM["GW"])
    with pytest.raises(ValueError, match=r"target=native: .*model\.pattern=GW"):
        export(config(source, tmp_path / "out", target=Home.native))
    assert not (tmp_path / "out").exists()
