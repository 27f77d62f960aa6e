from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lmtrain.data.tokenize import (
    END_OF_TEXT,
    bytes_tokenizer,
    encode,
    end_of_text,
    load_tokenizer,
    sample,
    token_bytes,
    train_bpe,
    vocab_size,
)

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [
    f"the quick brown fox number {i} jumps over the lazy dog\n\tagain, ünïcödé" for i in range(50)
]
BPE = train_bpe(TEXTS, vocab_size=300)
BYTES = bytes_tokenizer()
BPE_SIZES, BYTES_SIZES = token_bytes(BPE), token_bytes(BYTES)


def test_training_is_deterministic() -> None:
    assert train_bpe(TEXTS, vocab_size=300).to_str() == BPE.to_str()
    assert vocab_size(BPE) == 300


@given(st.text())
def test_texts_come_back_and_bytes_add_up(text: str) -> None:
    for tokenizer, sizes in ((BPE, BPE_SIZES), (BYTES, BYTES_SIZES)):
        (ids,) = encode(tokenizer, [text])
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        assert sizes is not None
        assert sizes[ids].sum() == len(text.encode())


@given(st.text())
def test_the_id_of_a_byte_is_its_value(text: str) -> None:
    assert bytes(encode(BYTES, [text])[0]) == text.encode()


@pytest.mark.parametrize("tokenizer", [BPE, BYTES], ids=["bpe", "bytes"])
def test_a_special_token_spelled_out_is_ordinary_text(tokenizer: Tokenizer) -> None:
    text = f"a{END_OF_TEXT}b"
    (ids,) = encode(tokenizer, [text])
    assert end_of_text(tokenizer) not in ids
    assert tokenizer.decode(ids) == text


def test_special_tokens_stand_for_no_bytes() -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.add_tokens(["été"])
    sizes = token_bytes(tokenizer)
    assert sizes is not None
    assert sizes[end_of_text(tokenizer)] == 0
    assert sizes[257] == 5
    assert len(sizes) == vocab_size(tokenizer) == 258


def test_tokens_of_other_tokenizers_have_no_fixed_bytes() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert token_bytes(tokenizer) is None
    tokenizer.decoder = decoders.WordPiece()
    assert token_bytes(tokenizer) is None


def test_the_end_of_text_is_found_or_named() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1, "<stop>": 2}, unk_token="a"))
    assert end_of_text(tokenizer) == 1
    assert end_of_text(tokenizer, "<stop>") == 2
    with pytest.raises(ValueError, match="no token <halt>.*end_of_text=TOKEN"):
        end_of_text(tokenizer, "<halt>")


def test_a_loaded_tokenizer_neither_cuts_nor_pads(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=10)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert [len(ids) for ids in encode(loaded, ["abcdefgh", "a"])] == [8, 1]


def test_what_is_not_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is missing"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer.json"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_sample_has_its_share() -> None:
    texts = [str(i) for i in range(2000)]
    assert list(sample(texts, 1.0)) == texts
    assert 400 < len(list(sample(texts, 0.25))) < 600
