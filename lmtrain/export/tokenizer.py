"""The files of a tokenizer, as transformers wants them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

if TYPE_CHECKING:
    from pathlib import Path


def write_tokenizer(
    folder: Path, source: Path, *, begin: int | None, end: int, longest: int
) -> None:
    """``tokenizer.json`` and ``tokenizer_config.json``.

    A token that opened every document of the training opens every text, unless the tokenizer
    already does something of that kind.

    Args:
        folder: to write into.
        source: the ``tokenizer.json`` of the training.
        begin: id of the token that opens a document.
        end: id of the token that ends one.
        longest: tokens of the longest document of the training.
    """
    tokenizer = Tokenizer.from_file(str(source))
    text = source.read_text()
    special: dict[str, Any] = {"eos_token": tokenizer.id_to_token(end)}
    if begin is not None:
        token = special["bos_token"] = tokenizer.id_to_token(begin)
        if json.loads(text).get("post_processor") is None:
            tokenizer.post_processor = TemplateProcessing(
                single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, begin)]
            )
            text = tokenizer.to_str()
    (folder / "tokenizer.json").write_text(text)
    said = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
        "pad_token": special["eos_token"],
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said, indent=2) + "\n")
