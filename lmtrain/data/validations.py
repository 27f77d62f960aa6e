"""What a run validates on: held-back documents of each source, and more stores by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lmtrain.data.sources import Sources
from lmtrain.data.validation import ValidationSet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lmtrain.data.curriculum_config import CurriculumConfig
    from lmtrain.data.sources import Corpus
    from lmtrain.data.store import Store


@dataclass(frozen=True, kw_only=True)
class Validations:
    """Validation sets by name; a single source has none."""

    sources: dict[str, ValidationSet] = field(default_factory=dict[str, ValidationSet])
    """Held back from what is trained on; empty when nothing is."""
    others: dict[str, ValidationSet] = field(default_factory=dict[str, ValidationSet])
    """Other stores, in full."""

    @property
    def every(self) -> dict[str, ValidationSet]:
        """All sets; their names differ."""
        return self.sources | self.others

    @property
    def main(self) -> dict[str, ValidationSet]:
        """Those that the one loss of a run is the mean over: the sources, if any is held back."""
        return self.sources or self.others

    @classmethod
    def of(
        cls,
        data: Corpus,
        others: Mapping[str, Store],
        curriculum: CurriculumConfig,
        *,
        tokens: int,
    ) -> Validations:
        """The sets of a run.

        Args:
            data: what is trained on; sources share ``tokens`` by their weights.
            others: stores that only validate.
            curriculum: the lengths.
            tokens: about how many targets of the sources to use.

        Raises:
            ValueError: one of them has no piece.
        """
        held: dict[str, ValidationSet] = {}
        if data.selection.val_fraction:
            parts = [("", data, 1.0)]
            if isinstance(data, Sources):
                parts = zip(data.names, data.stores.values(), data.weights, strict=True)
            held = {
                name: _named(f"data.sources.{name}", store, curriculum, max(1, int(tokens * part)))
                for name, store, part in parts
            }
        more = {
            name: _named(f"data.validation.{name}", store, curriculum, None)
            for name, store in others.items()
        }
        return cls(sources=held, others=more)


def _named(
    key: str, store: Corpus, curriculum: CurriculumConfig, tokens: int | None
) -> ValidationSet:
    try:
        return ValidationSet(store, curriculum, tokens)
    except ValueError as error:
        raise error if key.endswith(".") else ValueError(f"{key}: {error}") from error
