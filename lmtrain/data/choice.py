"""The tokenizer that a configuration names: trained here, of plain bytes, a file, or of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tokenizers import Tokenizer

from lmtrain.data.tokenize import bytes_tokenizer, end_of_text, load_tokenizer, special_token

if TYPE_CHECKING:
    from lmtrain.data.prepare_config import PrepareConfig


@dataclass(frozen=True)
class Choice:
    """A tokenizer and the special tokens around documents; ``revision`` is a commit of the hub."""

    tokenizer: Tokenizer
    end_of_text: int
    begin_of_text: int | None = None
    revision: str | None = None

    @classmethod
    def of(cls, config: PrepareConfig, trained: Tokenizer | None = None) -> Self:
        """What the configuration names; ``trained`` is the one of ``bpe:N``.

        Raises:
            ValueError: it cannot be had, or does not have the special tokens.
        """
        revision = None
        if config.tokenizer == "bytes":
            tokenizer = bytes_tokenizer()
        elif trained is not None:
            tokenizer = trained
        else:
            path, revision = find_tokenizer(config.tokenizer, config.tokenizer_revision)
            tokenizer = load_tokenizer(path)
        end = end_of_text(tokenizer, config.end_of_text)
        begin = config.begin_of_text
        return cls(
            tokenizer,
            end,
            special_token(tokenizer, begin, "begin_of_text") if begin else None,
            revision,
        )


def bpe_size(name: str) -> int | None:
    """The tokens of ``bpe:N``; None if that is not the name of the tokenizer."""
    kind, _, size = name.partition(":")
    return int(size) if kind == "bpe" else None


def find_tokenizer(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """Where the ``tokenizer.json`` lies that a path, a folder or a name on the hub stands for.

    Returns:
        Also its commit, if it is from the hub; what is in the hub's cache needs no connection.

    Raises:
        ValueError: the hub does not have it, or cannot be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path / "tokenizer.json", None
    if path.exists() or path.suffix == ".json" or name[:1] in ("/", ".", "~"):
        return path, None
    hub: Any = import_module("huggingface_hub")  # its types are only partly known
    try:
        found = Path(hub.hf_hub_download(name, "tokenizer.json", revision=revision))
    except Exception as error:  # the library, and those below it, raise many kinds
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"tokenizer={name} is no file or folder, and the hub does not give it "
            f"({type(error).__name__}: {reason}): give the path of a tokenizer.json, or check the "
            "name, tokenizer_revision and the connection"
        ) from error
    return found, found.parent.name
