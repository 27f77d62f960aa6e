"""Drawing tokens, and turning them into text."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lmtrain.config import compose
from lmtrain.data.tokenize import bytes_tokenizer, spelled
from lmtrain.evaluate import generate as module
from lmtrain.evaluate.generate import Sampling, Writer, draw, next_tokens
from lmtrain.layout import SequenceLayout
from lmtrain.settings.engine import Device, EngineConfig
from lmtrain.train.birth import birth
from lmtrain.train.engines import LocalEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lmtrain.models.decoder import Decoder

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model(tiny: list[str]) -> Decoder:
    config = compose(tiny).resolved(257)
    return birth(config, LocalEngine(EngineConfig(device=Device.cpu)))[0]


def test_no_temperature_takes_the_likeliest() -> None:
    assert draw(LOGITS, Sampling(temperature=0), seeded()).tolist() == [0]


@pytest.mark.parametrize(("top_p", "possible"), [(0.5, {0}), (0.79, {0, 1}), (0.81, {0, 1, 2})])
def test_top_p_keeps_the_smallest_set(top_p: float, possible: set[int]) -> None:
    generator, sampling = seeded(), Sampling(top_p=top_p)
    assert {int(draw(LOGITS, sampling, generator)) for _ in range(200)} == possible


def test_a_temperature_next_to_none_takes_the_likeliest() -> None:
    """Not nan, though logits over it are infinite."""
    assert draw(LOGITS, Sampling(temperature=1e-45), seeded()).tolist() == [0]


def test_temperature_sharpens() -> None:
    generator = seeded()
    drawn = [int(draw(LOGITS, Sampling(temperature=0.1), generator)) for _ in range(300)]
    assert drawn.count(0) > 290


def test_states_give_the_same_tokens_as_reading_all_again(model: Decoder) -> None:
    prompt = torch.arange(40) % 7
    tokens = next_tokens(model, prompt, Sampling(temperature=0), vocabulary=257, generator=seeded())
    read = prompt.tolist()
    for token in islice(tokens, 6):
        logits = model(torch.tensor(read), SequenceLayout.of_lengths([len(read)]))
        assert int(logits[-1, :257].argmax()) == token
        read.append(token)


def test_padding_of_the_vocabulary_is_never_drawn(model: Decoder) -> None:
    with torch.no_grad():
        model.norm.weight.zero_()  # all 320 logits are equal
    tokens = next_tokens(model, torch.tensor([1]), Sampling(), vocabulary=3, generator=seeded())
    assert set(islice(tokens, 50)) == {0, 1, 2}


def test_characters_are_never_cut(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "aé€😀z"
    monkeypatch.setattr(module, "next_tokens", lambda *_, **__: iter([*told.encode(), 256, 65]))
    writer = Writer(model, bytes_tokenizer())
    assert list(writer.write("x", 100, Sampling(), seed=0)) == list(told)
    assert list(writer.write("x", 4, Sampling(), seed=0)) == ["a", "é"]


def test_special_tokens_of_the_data_are_around_the_text(
    model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[int]] = []

    def drawn(_: Decoder, prompt: torch.Tensor, *__: object, **___: object) -> Iterator[int]:
        read.append(prompt.tolist())
        return iter([*b"ab", 7, *b"c"])

    monkeypatch.setattr(module, "next_tokens", drawn)
    writer = Writer(model, bytes_tokenizer(), begin_of_text=256, end_of_text=7)
    assert list(writer.write("x", 100, Sampling(), seed=0)) == ["a", "b"]
    assert read == [[256, ord("x")]]


def test_the_space_after_the_prompt_stays(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders of Metaspace drop the space of the first word that they are given."""
    tokenizer = Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1, "</s>": 2}, unk_token="</s>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    monkeypatch.setattr(module, "next_tokens", lambda *_, **__: iter([1, 0, 2]))
    assert list(Writer(model, tokenizer).write("a", 9, Sampling(), seed=0)) == [" b", " a"]


NUMBERS = {str(i): i for i in range(4)} | {"</s>": 4}


def words() -> Tokenizer:
    """As a synthetic task has it: words with spaces between them, and no other."""
    tokenizer = Tokenizer(models.WordLevel(NUMBERS))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


@pytest.mark.parametrize("prompt", ["hello", "1 2 9", "\n", " "])
def test_a_prompt_that_the_tokenizer_cannot_spell_is_refused(prompt: str, model: Decoder) -> None:
    with pytest.raises(ValueError, match=re.escape(f"prompt={prompt!r} is nothing that")) as told:
        next(Writer(model, words()).write(prompt, 3, Sampling(), seed=0))
    assert str(told.value).endswith("use tokens of it, such as '0 1 2'")


def test_texts_begin_with_what_the_tokenizer_has() -> None:
    assert spelled(bytes_tokenizer()) == "\n"
    assert spelled(words()) == "0"


def test_a_seed_decides_the_text(model: Decoder) -> None:
    writer = Writer(model, bytes_tokenizer())
    texts = ["".join(writer.write("x", 20, Sampling(), seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no checkpoint"):
        Writer.open(tmp_path)
