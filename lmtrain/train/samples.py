"""Texts that a trained model writes at the end of its run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lmtrain.data.store import Side
from lmtrain.evaluate.generate import Sampling, Writer

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.data.sources import Corpus
    from lmtrain.ops.config import OpsConfig
    from lmtrain.settings.engine import Device
    from lmtrain.settings.generate import SamplesSection


def write_samples(
    checkpoint: Path,
    store: Corpus,
    samples: SamplesSection,
    *,
    folder: Path,
    device: Device,
    ops: OpsConfig,
) -> Iterator[str]:
    """Write ``folder/STEP_NUMBER.txt`` and yield each text, its prompt marked off.

    Args:
        checkpoint: a checkpoint folder; the model is read from it.
        store: validation documents begin the texts unless ``samples`` has a prompt.
        samples: how many, how long, how drawn.
        folder: made if it is missing.
        device: where to compute.
        ops: what computes.
    """
    prompts = [samples.prompt] * samples.count if samples.prompt else _openings(store, samples)
    if not prompts:
        return
    writer = Writer.open(checkpoint, device=device, ops=ops)
    sampling = Sampling(temperature=samples.temperature, top_p=samples.top_p)
    folder.mkdir(exist_ok=True)
    for number, prompt in enumerate(prompts):
        text = "".join(writer.write(prompt, samples.tokens, sampling, seed=number))
        path = folder / f"{checkpoint.name}_{number}.txt"
        path.write_text(prompt + text, encoding="utf-8")
        yield f"--- {path}\n{prompt} ▶ {text}"


def _openings(store: Corpus, samples: SamplesSection) -> list[str]:
    """How validation documents begin."""
    documents = store.documents(Side.validation)
    starts = documents.starts[documents.lengths > samples.prompt_tokens][: samples.count]
    rows = store.read(starts, samples.prompt_tokens).tolist()
    return [store.tokenizer().decode(row) for row in rows]
