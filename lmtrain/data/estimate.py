"""What a preparation would give and cost, from a sample of the input."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmtrain.data.choice import Choice
from lmtrain.data.encoding import Encoder
from lmtrain.data.hub import dataset_of
from lmtrain.data.inputs import find_inputs
from lmtrain.data.manifest import DOCUMENT_DTYPE, OFFSET_DTYPE
from lmtrain.data.prepare import trained
from lmtrain.data.sampling import spread
from lmtrain.data.units import plan_units
from lmtrain.data.workers import one_thread, usable_cores

if TYPE_CHECKING:
    from lmtrain.data.prepare_config import PrepareConfig

SAMPLE_CHARACTERS = 1 << 23


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of a store: documents, tokens, bytes on disk; and the seconds that ``workers`` need.

    ``share`` of the input was looked at, and counts as the rest does.
    """

    documents: float
    tokens: float
    disk: float
    seconds: float
    workers: int
    share: float

    def __str__(self) -> str:
        minutes, hours = self.seconds / 60, self.seconds / 3600
        took = f"{hours:.1f} hours" if hours > 2 else f"{minutes:.1f} minutes"  # noqa: PLR2004
        return (
            f"about {self.documents:,.0f} documents, {self.tokens:,.0f} tokens, "
            f"{self.disk / 1e9:,.3f} GB on disk (twice that while it is written), {took} with "
            f"{self.workers} processes; from {self.share:.2%} of the input, nothing was written"
        )


def estimate(config: PrepareConfig) -> Estimate:
    """Read and tokenise some megabytes spread over the input.

    Raises:
        ValueError: the configuration, the input or the tokenizer cannot be used.
    """
    if problems := config.check():
        raise ValueError("\n".join(problems))
    began = time.perf_counter()
    units = plan_units(find_inputs(config), field=config.field)
    choice = Choice.of(config, trained(config, units))
    encoder = Encoder.of(choice.tokenizer, choice.end_of_text, choice.begin_of_text)
    prepared = time.perf_counter()
    documents = tokens = seen = 0.0
    samples = spread(units, SAMPLE_CHARACTERS, field=config.field, dataset=dataset_of(config))
    with one_thread():
        for sample in samples:
            encoded = encoder(sample.texts)
            documents += int((encoded.lengths > 0).sum())
            tokens += len(encoded.tokens) * sample.whole / max(1, sum(map(len, sample.texts)))
            seen += sample.share * sample.unit.bytes
    if not documents:
        raise ValueError(
            f"input={config.input} holds no text, as far as a sample shows: tables and jsonl need "
            f"it under field={config.field}"
        )
    took = time.perf_counter() - prepared
    scale = sum(unit.bytes for unit in units) / seen
    if config.max_documents is not None:
        scale = min(scale, config.max_documents / documents)
    workers = min(config.workers or usable_cores(), len(units))
    per_document = OFFSET_DTYPE.itemsize + DOCUMENT_DTYPE.itemsize
    return Estimate(
        documents=documents * scale,
        tokens=tokens * scale,
        disk=scale * (tokens * encoder.dtype.itemsize + documents * per_document),
        seconds=prepared - began + took * scale / workers,
        workers=workers,
        share=min(1.0, 1 / scale),
    )
