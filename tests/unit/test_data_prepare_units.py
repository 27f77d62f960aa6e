"""Units of the input: side by side they hold everything once, whatever their borders."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtrain.data import readers, units
from lmtrain.data.lines import Lines
from lmtrain.data.readers import LongFile, Problem, Reader
from lmtrain.data.units import Input, UnitKind, plan_units

PIECES = st.sampled_from([b"\n", b"\n", b" \n", b"\xc2\xa0\n", b"a", b"bc ", b"\r\n", b"\xff"])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 200)


def found(kind: UnitKind, *files: Path) -> list[list[object]]:
    """What is found in each unit."""
    return [
        list(Reader(unit, "text")) for unit in plan_units([Input("", kind, files)], field="text")
    ]


@settings(deadline=None)
@given(st.lists(PIECES, max_size=40), st.lists(st.integers(0, 60), max_size=4))
def test_ranges_side_by_side_hold_every_line_and_paragraph_once(
    pieces: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(pieces)
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_bytes(data)
        whole = Lines(path)
        lines, paragraphs = list(whole), list(Lines(path).paragraphs())
        parts = [Lines(path, a, b) for a, b in pairwise(borders)]
        assert [line for part in parts for line in part] == lines
        before, seen = 0, []
        for part in parts:
            again = Lines(path, part.start, part.stop)
            seen += [(lines, before + number) for lines, number in again.paragraphs()]
            assert again.count == part.count
            before += part.count
        assert seen == paragraphs
        assert before == whole.count
    assert b"".join(lines) == data


def test_one_giant_line_is_one_document_and_its_neighbours_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("first\n" + "x" * 3000 + "\nlast")
    parts = found(UnitKind.line, path)
    assert len(parts) == 16
    assert [text for part in parts for text in part] == ["first", "x" * 3000, "last"]


def test_a_compressed_file_is_one_unit_whatever_its_frames(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(100)]
    data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    parts = [data[:700], data[700:]]
    gz, zst = tmp_path / "a.jsonl.gz", tmp_path / "a.jsonl.zst"
    gz.write_bytes(b"".join(map(gzip.compress, parts)))
    codec = pa.Codec("zstd")
    zst.write_bytes(b"".join(codec.compress(part, asbytes=True) for part in parts))
    for path in (gz, zst):
        assert found(UnitKind.jsonl, path) == [texts]


def test_row_groups_are_units_and_rows_are_counted_from_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    values = [f"value {i} " * 5 if i != 61 else None for i in range(100)]
    pq.write_table(pa.table({"text": values}), path, row_group_size=10)
    parts = found(UnitKind.parquet, path)
    assert len(parts) == 10
    problem = Problem(str(path), "field=text holds no text", row=62)
    assert [x for part in parts for x in part] == [*values[:61], problem, *values[62:]]


def test_small_files_share_a_unit(tmp_path: Path) -> None:
    files: list[Path] = []
    for i in range(20):
        files.append(tmp_path / f"{i:02d}.txt")
        files[-1].write_text(f"text {i}" * 5)
    parts = found(UnitKind.file, *files)
    assert 1 < len(parts) < 10
    assert [x for part in parts for x in part] == [file.read_text() for file in files]


def test_a_large_text_file_is_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "WHOLE_CHARACTERS", 100)
    text = "".join(f"línea {i}\r\n" for i in range(100))
    path, bad, blank = (tmp_path / f"{name}.txt" for name in ("long", "bad", "blank"))
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    bad.write_bytes(b"a" * 900 + b"\xff")
    blank.write_text(" \n" * 300)
    document, problem, nothing = (
        x for part in found(UnitKind.file, path, bad, blank) for x in part
    )
    assert isinstance(document, LongFile)
    assert max(map(len, document)) == 100
    assert "".join(document) == text.replace("\r\n", "\n")
    assert isinstance(problem, Problem)
    assert nothing == ""
