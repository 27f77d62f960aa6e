"""Long texts: the ids of the whole, in linear time."""

from __future__ import annotations

import gzip
from itertools import chain
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from lmtrain.data import encoding, longtext, readers
from lmtrain.data.estimate import estimate
from lmtrain.data.longtext import UncuttableError, encode_long, pieces
from lmtrain.data.prepare import prepare
from lmtrain.data.prepare_config import PrepareConfig
from lmtrain.data.store import Selection, Side, Store
from lmtrain.data.tokenize import bytes_tokenizer, encode, text_hash, train_bpe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WORDS = "the of and cut(where) x1 = 42, naïve 文字 -- longer_names return None".split()  # noqa: SIM905
RANDOM = Random(0)
PROSE = " ".join(RANDOM.choices(WORDS, k=400_000))
BPE = train_bpe([PROSE[:50_000], "a" * 64, "acgtgcatcg" * 30, " " * 64], vocab_size=700)


def like_llama() -> Tokenizer:
    """A BPE without pre-tokenizer that puts a space before every text."""
    symbols = ["<unk>", "▁", *"ab"]
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b"), ("▁", "b")]
    vocabulary = {t: i for i, t in enumerate([*symbols, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    parts = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(parts)  # type: ignore[assignment]
    back = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(back)  # type: ignore[assignment]
    return tokenizer


def joined(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(chain.from_iterable(encode_long(tokenizer, pieces(text))))


def test_parts_have_the_ids_of_the_whole() -> None:
    assert len(PROSE) > longtext.PART
    assert joined(BPE, PROSE) == encode(BPE, [PROSE])[0]


@pytest.mark.parametrize(
    "text",
    [
        "".join(PROSE[:250_000].split()),
        "".join(RANDOM.choices("acgt", k=200_000)),
        "".join(RANDOM.choices("0123456789", k=200_000)),
        "a" * 200_003,
        " " * 200_001,
        "\n \n" * 60_000,
    ],
    ids=["no-spaces", "one-word", "digits", "one-letter", "spaces", "lines"],
)
def test_smaller_parts_have_them_too(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longtext, "PART", 1 << 16)
    assert joined(BPE, text) == encode(BPE, [text])[0]


@settings(deadline=None)
@given(st.text("ab 1\n.é", max_size=300), st.integers(1, 50))
def test_parts_of_any_size_decode_to_the_text(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(longtext, "PART", 40)
        patch.setattr(longtext, "OVERLAP", 10)
        parts = [text[start : start + size] for start in range(0, len(text), size)]
        ids = list(chain.from_iterable(encode_long(BPE, parts)))
    assert BPE.decode(ids, skip_special_tokens=False) == text


def test_a_tokenizer_that_begins_with_a_space_is_cut_behind_spaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(longtext, "PART", 1000)
    monkeypatch.setattr(longtext, "OVERLAP", 50)
    tokenizer = like_llama()
    text = " ".join(RANDOM.choices(["ab", "ba", "abab", "a"], k=3000))
    assert joined(tokenizer, text) == encode(tokenizer, [text])[0]
    with pytest.raises(UncuttableError, match="no place to cut it in 1,000 characters"):
        joined(tokenizer, "b" * 3000)


def test_other_pre_tokenizers_are_cut_where_it_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Groups of three digits, and a sign that goes with the word behind it."""
    monkeypatch.setattr(longtext, "PART", 1000)
    monkeypatch.setattr(longtext, "OVERLAP", 50)
    tokenizer = train_bpe([PROSE[:50_000]], vocab_size=500)
    pattern = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+")
    split = pre_tokenizers.Split(pattern, "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])  # type: ignore[assignment]
    for text in (PROSE[:20_000], "".join(PROSE[:20_000].split()), "1234567" * 999, "(a)+" * 999):
        assert joined(tokenizer, text) == encode(tokenizer, [text])[0]


@pytest.mark.parametrize("text", ["a", "word ", "0", ".;"])
def test_the_work_is_linear(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three million characters: none is encoded twice but those at cuts, and no part is larger."""
    sizes: list[int] = []

    def count(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        sizes.extend(map(len, texts))
        return [list(text.encode()) for text in texts]

    monkeypatch.setattr(longtext, "PART", 1 << 16)
    monkeypatch.setattr(longtext, "OVERLAP", 1 << 7)
    monkeypatch.setattr(longtext, "encode", count)
    length = 3_000_000
    whole = sum(map(len, encode_long(bytes_tokenizer(), pieces(text * (length // len(text))))))
    assert whole == length
    assert max(sizes) <= longtext.PART
    assert sum(sizes) < 1.1 * length


def test_a_long_text_is_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (longtext, encoding):
        monkeypatch.setattr(module, "PART", 500)
    monkeypatch.setattr(longtext, "OVERLAP", 20)
    monkeypatch.setattr(readers, "WHOLE_CHARACTERS", 2000)
    texts = ["short", PROSE[:900], PROSE[:9000], "also short"]
    (tmp_path / "in").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "in" / f"{number}.txt").write_text(text)
    BPE.save(str(tmp_path / "bpe.json"))
    config = PrepareConfig(
        input=str(tmp_path / "in"),
        out=str(tmp_path / "store"),
        tokenizer=str(tmp_path / "bpe.json"),
        workers=1,
    )
    store = Store(prepare(config), Selection(val_fraction=0))
    documents = store.documents(Side.train)
    for text, start, length in zip(texts, *documents, strict=True):
        [ids] = store.read(np.array([start]), int(length)).tolist()
        assert ids == [*encode(BPE, [text])[0], store.end_of_text]
    table = np.load(store.folder / "shard-00000.doc.npy")
    assert table["hash"].tolist() == [text_hash(text) for text in texts]


def test_a_text_that_cannot_be_cut_is_malformed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (longtext, encoding):
        monkeypatch.setattr(module, "PART", 500)
    monkeypatch.setattr(longtext, "OVERLAP", 20)
    tokenizer = like_llama()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(tmp_path / "llama.json"))
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a b"}\n{"text": "%s"}\n{"text": "b"}' % ("b" * 900)
    )
    config = PrepareConfig(
        input=str(tmp_path / "a.jsonl"),
        out=str(tmp_path / "store"),
        tokenizer=str(tmp_path / "llama.json"),
        workers=1,
    )
    counts = Store(prepare(config)).manifest.counts
    assert (counts.documents, counts.empty, counts.malformed) == (2, 0, 1)
    assert counts.tokens == 2 + 1 + 1 + 1


@pytest.mark.parametrize("name", ["long.txt", "long.txt.gz"])
def test_an_estimate_counts_the_characters_of_a_long_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text = "".join(RANDOM.choices("文字日本語 一二三", k=2_000_000))
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    monkeypatch.setattr(readers, "WHOLE_CHARACTERS", 500_000)
    config = PrepareConfig(input=str(tmp_path / name), out="x", tokenizer="bytes", max_documents=9)
    guess = estimate(config)
    assert guess.documents == guess.share == 1
    assert guess.tokens == pytest.approx(len(data), rel=0.15)
