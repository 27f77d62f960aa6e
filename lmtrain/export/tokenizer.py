"""The files of a tokenizer, as transformers wants them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers.processors import TemplateProcessing

from lmtrain.data.tokenize import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer


def write_tokenizer(
    folder: Path, source: Path, *, begin: int | None, end: int, longest: int
) -> None:
    """``tokenizer.json`` and ``tokenizer_config.json``.

    A text gets the tokens around it that began every document of the training, and no others.

    Args:
        folder: to write into.
        source: the ``tokenizer.json`` of the training.
        begin: id of the token that opens a document.
        end: id of the token that ends one.
        longest: tokens of the longest document of the training.
    """
    tokenizer = load_tokenizer(source)
    special: dict[str, Any] = {"eos_token": tokenizer.id_to_token(end)}
    if begin is not None:
        special["bos_token"] = tokenizer.id_to_token(begin)
    text = source.read_text(encoding="utf-8")
    if not _opens_with(tokenizer, begin):
        tokenizer.post_processor = None if begin is None else _opening(tokenizer, begin)
        text = tokenizer.to_str()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    said = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
        "pad_token": special["eos_token"],
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said, indent=2) + "\n")


def _opens_with(tokenizer: Tokenizer, begin: int | None) -> bool:
    """Whether it puts this token before a text, or none, and nothing else around it."""
    alone = tokenizer.encode("a", add_special_tokens=False).ids
    return tokenizer.encode("a").ids == ([] if begin is None else [begin]) + alone


def _opening(tokenizer: Tokenizer, begin: int) -> TemplateProcessing:
    """What puts this token before every text."""
    token = str(tokenizer.id_to_token(begin))
    first, second = [token, "$A"], [token, "$B"]
    return TemplateProcessing(single=first, pair=[*first, *second], special_tokens=[(token, begin)])
