"""Text from a checkpoint, token by token, with the recurrent, window and key-value states."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from lmtrain.config import read, require
from lmtrain.data.tokenize import end_of_text, load_tokenizer, prompt_ids, spelled, vocab_size
from lmtrain.models.decoder import Decoder
from lmtrain.ops.backend import bind
from lmtrain.ops.config import OpsConfig
from lmtrain.settings.engine import Device
from lmtrain.train.checkpoint import find_whole
from lmtrain.train.engines import choose_device
from lmtrain.train.tensors import model_tensors, read_tensors

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from lmtrain.settings.generate import GenerateConfig


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens with this much probability."""


@dataclass(frozen=True)
class Writer:
    """A trained model, its tokenizer, and the special tokens around the documents it learnt.

    ``end_of_text`` None is the usual one of the tokenizer.
    """

    model: Decoder
    tokenizer: Tokenizer
    begin_of_text: int | None = None
    end_of_text: int | None = None

    @classmethod
    def open(
        cls, path: Path, *, device: Device = Device.auto, ops: OpsConfig | None = None
    ) -> Writer:
        """The writer in a run folder (its latest checkpoint) or in one checkpoint folder.

        ``ops`` None is the default, whatever the training computed with.

        Raises:
            ValueError: there is no checkpoint, or it is damaged, or ``ops`` cannot run here.
        """
        folder, there = find_whole(path), choose_device(device)
        with torch.device("meta"):
            model = Decoder(read(folder / "config.yaml").model)
        bind(model, ops or OpsConfig(), there, torch.float32)
        model.to_empty(device=there)
        read_tensors(folder / "model", model_tensors(model))
        special = folder / "special_tokens.json"
        around = json.loads(special.read_text()) if special.is_file() else {}
        return cls(model.eval(), load_tokenizer(folder / "tokenizer.json"), **around)

    def write(self, prompt: str, tokens: int, sampling: Sampling, *, seed: int) -> Iterator[str]:
        """The text that follows ``prompt``, in pieces as it comes, ``tokens`` tokens at most.

        A character whose bytes are not all there yet is held back.

        Raises:
            ValueError: the tokenizer cannot spell the prompt.
        """
        device = self.model.embedding.weight.device
        ids = prompt_ids(self.tokenizer, prompt, key="prompt")
        if self.begin_of_text is not None:
            ids = [self.begin_of_text, *ids]
        end = end_of_text(self.tokenizer) if self.end_of_text is None else self.end_of_text
        stream = DecodeStream(skip_special_tokens=True)
        for token in ids:  # some decoders drop the space that opens a text
            stream.step(self.tokenizer, token)
        drawn = next_tokens(
            self.model,
            torch.tensor(ids, device=device),
            sampling,
            vocabulary=vocab_size(self.tokenizer),
            generator=torch.Generator(device).manual_seed(seed),
        )
        for _, token in zip(range(tokens), drawn, strict=False):
            if token == end:
                return
            text = stream.step(self.tokenizer, token)
            if text:
                yield text


@torch.no_grad()
def next_tokens(
    model: Decoder,
    prompt: Tensor,
    sampling: Sampling,
    *,
    vocabulary: int,
    generator: Generator,
) -> Iterator[int]:
    """The endless continuation of ``prompt [t]``.

    Ids from ``vocabulary`` on only pad the embedding and are never drawn.
    """
    state, read_next = model.initial_states(), prompt
    while True:
        hidden, state = model.extend(read_next, state)
        logits = model.logits(hidden[-1:])[0, :vocabulary]
        read_next = draw(logits, sampling, generator)
        yield int(read_next)


def draw(logits: Tensor, sampling: Sampling, generator: Generator) -> Tensor:
    """``[1]``: one token of ``logits [vocab]``."""
    if sampling.temperature == 0:
        return logits.argmax(keepdim=True)
    below = logits.float() - logits.max()  # which no temperature makes infinite
    probabilities = (below / sampling.temperature).softmax(0)
    ordered, tokens = probabilities.sort(descending=True)
    before = ordered.cumsum(0) - ordered  # the likeliest token always stays
    kept = ordered.where(before < sampling.top_p, 0)
    return tokens[torch.multinomial(kept, 1, generator=generator)]


def generate(config: GenerateConfig) -> None:
    """Print texts as they are written.

    Raises:
        ValueError: the configuration has problems, there is no checkpoint, or its tokenizer cannot
            spell the prompt.
    """
    require(config.check())
    assert config.checkpoint is not None
    writer = Writer.open(Path(config.checkpoint), device=config.device, ops=config.ops)
    temperature = 0.0 if config.greedy else config.temperature
    sampling = Sampling(temperature=temperature, top_p=config.top_p)
    prompt = spelled(writer.tokenizer) if config.prompt is None else config.prompt
    prompt_ids(writer.tokenizer, prompt, key="prompt")
    for number in range(config.count):
        print(prompt, end="", flush=True)
        for text in writer.write(prompt, config.tokens, sampling, seed=config.seed + number):
            print(text, end="", flush=True)
        print("\n" + "-" * 40 if number + 1 < config.count else "")
