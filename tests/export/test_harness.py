"""lm-evaluation-harness on exported folders: what it finds, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import pytest
from cases import CUSTOM, NATIVE, checkpoint, seal
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from lmtrain.evaluate.harness import ask, check_folder, check_tokenizer, records
from lmtrain.export.export import export
from lmtrain.settings.evaluate import EvalConfig
from lmtrain.settings.export import ExportConfig
from lmtrain.settings.harness import HarnessSection
from lmtrain.settings.scores import ScoreKind

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.models.config import ModelConfig

PATIENCE_SECONDS = 1800
VOCABULARY = 2048


def english(folder: Path, vocabulary: int) -> None:
    """A tokenizer that learned from Python's own help, in place of bytes."""
    made = Tokenizer(BPE())
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    made.train_from_iterator(topics.values(), trainer)
    made.save(str(folder / "tokenizer.json"))


def answering(root: Path, model: ModelConfig) -> Path:
    """An export whose tokenizer knows English."""
    source = checkpoint(root / "checkpoint", replace(model, vocab_size=VOCABULARY))
    english(source, VOCABULARY)
    seal(source)
    how = ExportConfig(checkpoint=str(source), out=str(root / "folder"), verify=False)
    folder = export(how)
    assert folder
    return folder


def asked(folder: Path, **more: Any) -> EvalConfig:
    section = {"tasks": ["niah_single_1"], "limit": 1, **more.pop("harness", {})}
    return EvalConfig(checkpoint=str(folder), harness=HarnessSection(**section), **more)


def test_records_are_the_scores_that_were_asked() -> None:
    found = {
        "results": {
            "ruler_vt": {
                "alias": "vt",
                "4096,none": -1,
                "1024,none": 0.25,
                "1024_stderr,none": 0.1,
            },
            "piqa": {"alias": "piqa", "acc,none": 0.5, "acc_stderr,none": "N/A", "sample_len": 3},
        },
        "n-samples": {"ruler_vt": {"original": 500, "effective": 2}},
    }
    common = {"what": "harness"}
    assert list(records(found)) == [
        {
            **common,
            **{"task": "ruler_vt", "length": 1024, "metric": "matches", "score": 0.25},
            **{"stderr": 0.1, "rows": 2},
        },
        {
            **common,
            **{"task": "piqa", "length": None, "metric": "acc", "score": 0.5},
            **{"stderr": None, "rows": None},
        },
    ]


def test_code_of_a_folder_runs_only_if_it_is_trusted(exported: dict[str, Path]) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("lm_eval", reason="pip install 'lmtrain[harness]'")
    with pytest.raises(ValueError, match=r"config\.json asks for code .*trust_remote_code=true"):
        ask(asked(exported["custom all four"]))
    with pytest.raises(ValueError, match="is no exported folder: lmtrain export checkpoint="):
        ask(asked(exported["llama"].parent / "checkpoint"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"auto_map": {}}', "asks for code"),
        (r'{"auto\u005fmap": {}}', "asks for code"),
        (r'[{"deep": [{"\u0061uto_map": {}}]}]', "asks for code"),
        ('{"auto_map": {}', "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("\udcff", "is no JSON"),
    ],
)
def test_a_key_is_found_however_it_is_spelled(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(text, "utf-8", "surrogateescape")
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json {told}"):
        check_folder(tmp_path, trusted=False)
    check_folder(tmp_path, trusted=True)
    (tmp_path / "tokenizer_config.json").write_text('{"a": "auto_map"}')
    check_folder(tmp_path, trusted=False)


def test_what_does_not_go_together_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="say one of them"):
        ask(asked(tmp_path, what=[ScoreKind.text]))
    with pytest.raises(ValueError, match=r"harness\.limit=0"):
        ask(asked(tmp_path, harness={"limit": 0}))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing"):
        check_tokenizer(tmp_path, 4096)


@pytest.mark.long
def test_a_tokenizer_that_takes_too_many_tokens_is_refused(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    """RULER would look for a shorter example forever."""
    pytest.importorskip("lm_eval", reason="pip install 'lmtrain[harness]'")
    with pytest.raises(ValueError, match=r"takes 9\d\d tokens for the shortest .* fit 500: use"):
        ask(asked(exported["llama"], harness={"tasks": ["ruler_vt"]}))
    english(tmp_path, 512)
    with pytest.raises(ValueError, match="larger vocabulary, or tasks called niah_"):
        check_tokenizer(tmp_path, 4096)
    english(tmp_path, VOCABULARY)
    with pytest.raises(ValueError, match=r"row of 1024: choose lengths of at least 1[01]\d\d"):
        check_tokenizer(tmp_path, 1024)
    check_tokenizer(tmp_path, 2048)


@pytest.mark.long
@pytest.mark.parametrize("model", [NATIVE["llama yarn"][1], CUSTOM["yarn and linear"]])
def test_ruler_runs_on_native_and_custom_exports(model: ModelConfig, tmp_path: Path) -> None:
    """As a person types it. The models know nothing, so that only their number is certain."""
    pytest.importorskip("lm_eval", reason="pip install 'lmtrain[harness]'")
    folder = answering(tmp_path, model)
    custom = (folder / "modeling_lmtrain.py").is_file()
    command = [
        *(sys.executable, "-m", "lmtrain", "eval", f"checkpoint={folder}", "lengths=[2048]"),
        *("harness.tasks=[niah_single_1,ruler_vt]", "harness.limit=2", f"out={tmp_path}/out.json"),
        f"harness.trust_remote_code={custom}",
    ]
    home = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        command, check=False, timeout=PATIENCE_SECONDS, env=home, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out.json").read_text())["scores"]
    assert [(each["task"], each["length"], each["rows"]) for each in found] == [
        ("niah_single_1", 2048, 2),
        ("ruler_vt", 2048, 2),
    ]
    assert all(0 <= each["score"] <= 1 for each in found)
