"""Tokenizers: train a byte-level BPE, make one of plain bytes, load one, and ask what they say."""

from __future__ import annotations

import hashlib
import json
import os
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

END_OF_TEXT = "<|endoftext|>"
"""The special token that ends a document in the tokenizers made here."""

USUAL_ENDS = (END_OF_TEXT, "<|end_of_text|>", "<|eot_id|>", "</s>", "<eos>", "[EOS]")
"""Where to look for it in tokenizers made elsewhere; the first that is known wins."""


def train_bpe(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most ``vocab_size`` tokens; the same texts give the same tokenizer."""
    tokenizer = _byte_level(models.BPE(), use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    _allow_threads()
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def sample(texts: Iterable[str], share: float) -> Iterator[str]:
    """About this share of the texts, chosen by their hash, so spread over the whole corpus."""
    return (text for text in texts if text_hash(text) % 1_000_003 < share * 1_000_003)


def bytes_tokenizer() -> Tokenizer:
    """One token a byte; the id of a byte is its value, and 256 ends a document."""
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = _byte_level(models.BPE(vocab=vocabulary, merges=[]), use_regex=False)
    tokenizer.add_special_tokens([END_OF_TEXT])  # pyright: ignore[reportUnknownMemberType]
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``, without the truncation or padding it may ask for.

    Raises:
        ValueError: the file is missing or is not a tokenizer.
    """
    if not path.is_file():
        raise ValueError(f"tokenizer {path} is missing: give the path of a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"tokenizer {path} is not a tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def end_of_text(tokenizer: Tokenizer, name: str | None = None) -> int:
    """The id of the token that ends a document.

    Raises:
        ValueError: the tokenizer does not have it.
    """
    if name:
        return special_token(tokenizer, name, "end_of_text")
    for candidate in USUAL_ENDS:
        token = tokenizer.token_to_id(candidate)
        if token is not None:
            return token
    wanted = ", ".join(USUAL_ENDS)
    raise ValueError(f"the tokenizer has no token {wanted}: name its own with end_of_text=TOKEN")


def special_token(tokenizer: Tokenizer, name: str, key: str) -> int:
    """The id of the token that the configuration names with ``key``.

    Raises:
        ValueError: the tokenizer does not have it.
    """
    token = tokenizer.token_to_id(name)
    if token is None:
        raise ValueError(f"the tokenizer has no token {name}: name its own with {key}=TOKEN")
    return token


def vocab_size(tokenizer: Tokenizer) -> int:
    """One more than its largest id, added tokens included."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text. A special token spelled out in a text is ordinary text."""
    _allow_threads()
    tokenizer.encode_special_tokens = True
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def prompt_ids(tokenizer: Tokenizer, prompt: str, *, key: str) -> list[int]:
    """The ids of a text to continue, at least one.

    Raises:
        ValueError: the tokenizer cannot spell what ``key`` says.
    """
    try:
        [ids] = encode(tokenizer, [prompt])
    except Exception as error:  # tokenizers has no class of its own
        ids, reason = [], str(error)
    else:
        reason = "it has no token for it"
    if not ids:
        known = [token for _, token in zip(range(3), _ordinary(tokenizer), strict=False)]
        raise ValueError(
            f"{key}={prompt!r} is nothing that the run's tokenizer can spell ({reason}): "
            f"use tokens of it, such as {' '.join(known)!r}"
        )
    return ids


def spelled(tokenizer: Tokenizer) -> str:
    """A text to begin with: a line break, or the first token of a tokenizer that has none."""
    try:
        prompt_ids(tokenizer, "\n", key="prompt")
    except ValueError:
        return next(_ordinary(tokenizer))
    return "\n"


def _ordinary(tokenizer: Tokenizer) -> Iterator[str]:
    """Tokens that are not special, in the order of their ids."""
    added = tokenizer.get_added_tokens_decoder()
    special = {index for index, token in added.items() if token.special}
    for token, index in sorted(tokenizer.get_vocab().items(), key=itemgetter(1)):
        if index not in special:
            yield token


def token_bytes(tokenizer: Tokenizer) -> NDArray[np.int64] | None:
    """``[vocab]`` bytes of text that each id stands for, 0 for special tokens.

    None when the tokenizer is not byte-level, so that a token has no fixed number of bytes.
    """
    texts = token_texts(tokenizer)
    if texts is None:
        return None
    sizes = np.array([len(text) for text in texts], np.int64)
    added = tokenizer.get_added_tokens_decoder()
    sizes[[index for index, token in added.items() if token.special]] = 0
    return sizes


def token_texts(tokenizer: Tokenizer) -> list[bytes] | None:
    """The bytes of text that each id stands for, those of special tokens included.

    None when the tokenizer is not byte-level, so that a token stands for no fixed bytes.
    """
    description = json.loads(tokenizer.to_str())
    if not _is_byte_level(description["decoder"]):
        return None
    byte = {character: number for number, character in enumerate(_byte_characters())}
    texts = [b""] * vocab_size(tokenizer)
    for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
        if all(character in byte for character in token):
            texts[index] = bytes(byte[character] for character in token)
    for added in description["added_tokens"]:
        texts[added["id"]] = added["content"].encode()
    return texts


def text_hash(text: str) -> int:
    """64 bits of a text, the same everywhere and whatever the tokenizer."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _byte_level(model: models.BPE, *, use_regex: bool) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return tokenizer


def _byte_characters() -> list[str]:
    """The character that stands for each byte: itself if it prints, else one from 256 upwards."""
    prints = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in prints else chr(next(others)) for byte in range(256)]


def _is_byte_level(decoder: dict[str, Any] | None) -> bool:
    parts: list[dict[str, Any]] = decoder.get("decoders", [decoder]) if decoder else []
    return any(part["type"] == "ByteLevel" for part in parts)


def _allow_threads() -> None:
    # An explicit choice: without it the library warns when the process forks later.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
