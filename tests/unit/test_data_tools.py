from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from data_stores import problems_of, random_texts, write_store

from lmtrain.config import compose
from lmtrain.data.curriculum_config import CurriculumName
from lmtrain.data.manifest import FileEntry
from lmtrain.data.modes import run_mode
from lmtrain.data.prepare_config import InputFormat, Mode, PrepareConfig
from lmtrain.data.store import Selection, Store
from lmtrain.data.tools.peek import peek, visible
from lmtrain.data.tools.stats import Histogram, compared, courses, describe
from lmtrain.data.tools.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = random_texts(120, longest=2000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_store(tmp_path / "store", TEXTS, shard_tokens=20_000)
    return tmp_path / "store"


def stats_config(folder: Path, **keys: Any) -> PrepareConfig:
    config = compose(["mode=stats", "tokens_per_step=2048", "curriculum.max_length=512"], "prepare")
    return replace(config, input=str(folder), **keys)


def rewrite(folder: Path, file: str, change: Any) -> None:
    """Change a file of the store, and let the manifest agree."""
    path = folder / f"shard-00000.{file}"
    change(path)
    manifest = json.loads((folder / "manifest.json").read_text())
    shard = manifest["shards"][0]
    key = {"tok": "token_file", "off.npy": "offset_file", "doc.npy": "document_file"}[file]
    shard[key] = vars(FileEntry.of(path))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_mode_of_import_is_spelled_as_users_do() -> None:
    assert compose(["mode=import"], "prepare").mode is Mode.import_
    assert list(Mode) == ["build", "verify", "stats", "peek", "import", "export"]
    assert Mode.import_.name == "import"


def test_verify_tells_every_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = list(verify(folder))
    files = [report.file for report in reports]
    shards = len(Store(folder).manifest.shards)
    assert shards > 1
    assert files[:2] == ["manifest.json", "tokenizer.json"]
    assert len(files) == 2 + 3 * shards == len(set(files))
    assert all(report.bytes == (folder / report.file).stat().st_size for report in reports)
    run_mode(PrepareConfig(mode=Mode.verify, input=str(folder)))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", file] for file in files]


def test_verify_goes_on_after_a_problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "shard-00000.off.npy").unlink()
    path = folder / "shard-00001.tok"
    path.write_bytes(path.read_bytes()[:-1])
    (folder / "shard-00001.doc.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="(?s)00000.off.npy is missing.*00001.tok has .*doc.npy"):
        run_mode(PrepareConfig(mode=Mode.verify, input=str(folder)))
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]
    assert [line.split()[1] for line in wrong] == [
        "shard-00000.off.npy",
        "shard-00001.tok",
        "shard-00001.doc.npy",
    ]


def test_verify_looks_inside_files_whose_checksums_agree(folder: Path) -> None:
    def unordered(path: Path) -> None:
        offsets = np.load(path)
        offsets[[3, 4]] = offsets[[4, 3]]
        np.save(path, offsets)

    def unknown_source(path: Path) -> None:
        documents = np.load(path)
        documents["source"][2] = 7
        np.save(path, documents)

    def unended(path: Path) -> None:
        tokens = np.fromfile(path, "<u2")
        tokens[np.load(folder / "shard-00000.off.npy")[5] - 1] = 97
        tokens.tofile(path)

    rewrite(folder, "tok", unended)
    assert problems_of(folder) == [
        f"{folder / 'shard-00000.tok'} has 1 documents that do not end with token 256"
    ]
    rewrite(folder, "doc.npy", unknown_source)
    assert any("names inputs that the manifest does not have" in p for p in problems_of(folder))
    rewrite(folder, "off.npy", unordered)
    assert any("borders out of order" in problem for problem in problems_of(folder))


def test_verify_knows_the_vocabulary_of_the_tokenizer(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 300}))
    assert problems_of(folder) == [
        f"{folder / 'tokenizer.json'} has 257 ids, and the manifest says 300"
    ]


def test_verify_exits_with_2(folder: Path) -> None:
    path = folder / "shard-00000.tok"
    path.write_bytes(path.read_bytes()[:-2])
    command = [sys.executable, "-m", "lmtrain", "prepare", "mode=verify", f"input={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ok     shard-00001.tok" in done.stdout
    assert done.stderr.startswith("lmtrain: ")
    assert "shard-00000.tok has" in done.stderr
    assert "Traceback" not in done.stderr


def test_peek_shows_documents_and_their_places(folder: Path) -> None:
    store = Store(folder, Selection(val_fraction=0))
    samples = peek(store, count=5, seed=1)
    assert samples == peek(store, count=5, seed=1) != peek(store, count=5, seed=2)
    assert [sample.index for sample in samples] == sorted({s.index for s in samples})
    starts = np.cumsum([0, *(len(text) + 1 for text in TEXTS)])
    for sample in samples:
        text = TEXTS[sample.index]
        assert (sample.start, sample.tokens) == (starts[sample.index], len(text) + 1)
        assert sample.source == "test"
        assert text.startswith(sample.first.removesuffix("<|endoftext|>"))
        assert (sample.last or sample.first).endswith("<|endoftext|>")
        shown = len(sample.first) + len(sample.last) + sample.left_out
        assert shown == len(text) + len("<|endoftext|>")
    assert len(peek(store, count=10**6, seed=0)) == len(TEXTS)


def test_what_a_terminal_would_obey_is_spelled_out(tmp_path: Path) -> None:
    text = "a\x1b[31mred\x07\r\u202eoops\u2028\tback\\slash\x00\x9b\nsecond é 第三 line"
    write_store(tmp_path / "store", [text])
    [sample] = peek(Store(tmp_path / "store", Selection(val_fraction=0)), count=1, seed=0)
    heading, first, second = str(sample).split("\n")
    assert heading.startswith("document 0, tokens 0 to ")
    spelled = r"a\x1b[31mred\x07\r\u202eoops\u2028\tback\\slash\x00\x9b"
    assert (first, second) == (f"  | {spelled}", "  | second é 第三 line<|endoftext|>")
    assert visible("\ud800\U000e0001") == r"\ud800\U000e0001"


def test_the_histogram_counts_documents_and_tokens() -> None:
    lengths = np.array([1, 2, 3, 4, 7, 8, 1023, 1024, (1 << 40) - 1, 1 << 40])
    histogram = Histogram.of(lengths)
    filled = np.flatnonzero(histogram.documents).tolist()
    assert filled == [0, 1, 2, 3, 9, 10, 39, 40]
    assert histogram.documents[filled].tolist() == [1, 2, 2, 1, 1, 1, 1, 1]
    assert histogram.tokens[filled].tolist() == [1, 5, 11, 8, *lengths[6:].tolist()]


def test_curricula_are_compared(folder: Path) -> None:
    config = stats_config(folder)
    store = Store(folder, Selection(val_fraction=0))
    found = {course.name: course for course in courses(store, config)}
    assert {"natural", "uniform", "grow_p2", "shrink_p2", "fixed"} <= found.keys()
    assert "odds" not in found  # it needs a key of its own
    for course in found.values():
        np.testing.assert_allclose(course.shares.sum(axis=1), 1)
        assert 0 < course.kept <= 1
    means = found["grow_p100"].mean_lengths
    assert means[0] < means[-1]
    assert found["fixed"].context == (512 - 1) / 2
    assert found["fixed"].work(512) == 1
    lengths, steps = found["natural"].lengths, found["natural"].steps
    context = sum(n * (length - 1) / 2 for n, length in zip(steps, lengths, strict=True))
    assert found["natural"].context == pytest.approx(context / sum(steps))
    assert found["concat"].kept > 0.99
    assert found["concat"].work(512) == 1 > found["concat_masked"].work(512)
    assert found["best_fit"].context < found["concat"].context
    config.curriculum = replace(config.curriculum, cycle_steps=3)  # fewer steps than parts
    assert len(courses(store, config)) == len(found)


def test_stages_are_seen_over_the_whole_pass(folder: Path) -> None:
    config = stats_config(folder)
    config.curriculum.name = CurriculumName.progressive
    config.curriculum.stages = [[8192, 64], [8192, 128]]
    [staged] = [c for c in courses(Store(folder), config) if c.name == "progressive"]
    assert staged.mean_lengths[0] == 64
    assert staged.mean_lengths[-1] > 200


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["curriculum=odds", "curriculum.odds=[1,2,3,4]"], "odds"),
        (["curriculum=window_warmup", "curriculum.view=best_fit"], "best_fit"),
        (["curriculum=natural", "curriculum.remainder=keep"], "natural"),
        (["curriculum=grow_p2", "curriculum.final_long=0.1"], "grow_p2"),
        (["curriculum=grow_p2", "curriculum.odds_scale=bucket_size"], "grow_p2"),
    ],
)
def test_the_configured_curriculum_is_compared_with_all_that_fit(
    overrides: list[str], name: str
) -> None:
    curriculum = compose([*overrides, "curriculum.max_length=512"], "prepare").curriculum
    found = compared(curriculum)
    assert found[name] == curriculum
    assert not any(other.check() for other in found.values())
    assert {"natural", "uniform", "concat", "concat_masked", "best_fit"} <= found.keys()


def test_stats_are_a_table_and_a_picture(folder: Path, tmp_path: Path) -> None:
    config = stats_config(folder, out=str(tmp_path / "new" / "stats.png"))
    text = describe(Store(folder, Selection(val_fraction=0)), config)
    total = sum(len(text) + 1 for text in TEXTS)
    assert f"all {len(TEXTS):>13,} {total:>16,}" in text
    assert "grow_p2" in text
    assert "targets kept" in text
    assert (tmp_path / "new" / "stats.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ValueError, match=r"out=.*stats.zip is no picture: use .*png"):
        describe(Store(folder), replace(config, out=str(tmp_path / "stats.zip")))


def test_stats_count_what_is_drawn_and_name_their_key(folder: Path) -> None:
    config = stats_config(folder)
    store = Store(folder, Selection(val_fraction=0))
    every = {course.name: course.kept for course in courses(store, config)}
    config.tokens_per_step = 16 * config.tokens_per_step
    fewer = {course.name: course.kept for course in courses(store, config)}
    assert fewer["natural"] < every["natural"]
    with pytest.raises(ValueError, match=r"^tokens_per_step=67108864 is more than any length"):
        describe(store, replace(config, tokens_per_step=1 << 26))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"mode": Mode.peek, "input": "x", "seed": -5}, "seed=-5 is too small: use 0 or more"),
        ({"input": "x", "out": "/"}, "out=/ ends in no name"),
        ({"mode": Mode.verify}, "input is empty"),
        ({"mode": Mode.peek, "input": "/nowhere"}, "input=/nowhere is no folder"),
        ({"mode": Mode.verify, "input": "/nowhere"}, "input=/nowhere is no folder"),
        ({"mode": Mode.peek, "input": "x", "count": 0}, "count=0 is too small"),
        ({"mode": Mode.stats, "input": "x", "tokens_per_step": 0}, "tokens_per_step=0 is too"),
        ({"mode": Mode.export, "input": "x", "out": "y"}, "use format=megatron"),
        (
            {"mode": Mode.export, "input": "x", "format": InputFormat.megatron},
            "give the PREFIX of PREFIX.bin",
        ),
        (
            {"mode": Mode.build, "input": "x", "out": "y", "format": InputFormat.dolma},
            "it holds tokens, so use mode=import",
        ),
    ],
)
def test_keys_fit_their_mode(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        run_mode(PrepareConfig(**keys))


def test_a_wrong_curriculum_is_told_before_the_store_is_read() -> None:
    config = compose(["mode=stats", "input=x", "curriculum.max_length=100"], "prepare")
    with pytest.raises(ValueError, match="curriculum.max_length=100 is not a power of two"):
        run_mode(config)
