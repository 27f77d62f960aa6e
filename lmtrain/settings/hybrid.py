"""A hybrid said by its ratio, which becomes the pattern word of the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lmtrain.models.pattern import LETTERS, Placement, hybrid


@dataclass(kw_only=True)
class HybridSection:
    """Recurrent blocks and attention, by ratio and placement, in place of ``model.pattern``.

    For sweeps, which vary one thing at a time. The word that it stands for is what the run has in
    its config.yaml.
    """

    mixer: str | None = None
    """Letter of the recurrent blocks, G, M or W; null leaves model.pattern as it is."""
    attention: str = "A"
    """Letter of the other blocks, A or W."""
    ratio: str = "3:1"
    """Recurrent blocks to blocks of attention, exactly: 1:0 has no attention, 0:1 nothing else."""
    placement: Placement = Placement.evenly
    """Where attention stands: evenly, at the end of each group; or together, as the first blocks of
    the stack, in its middle, or last."""

    def check(self, n_layers: int) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        if self.mixer is None:
            unused = asdict(self).items() - asdict(HybridSection()).items()
            return [
                f"hybrid.{key}={value} needs hybrid.mixer: say hybrid.mixer=G, or leave it out"
                for key, value in sorted(unused)
            ]
        problems = [
            f"hybrid.{key}={letter} is no mixer: the letters are {', '.join(LETTERS)}"
            for key, letter in {"mixer": self.mixer, "attention": self.attention}.items()
            if letter not in LETTERS
        ]
        try:
            self.word(max(1, n_layers))
        except ValueError as error:
            problems.append(f"hybrid.{error}")
        return problems

    def word(self, n_layers: int) -> str:
        """The pattern word.

        Raises:
            ValueError: the ratio is none, or cannot hold in so many blocks.
        """
        assert self.mixer is not None
        return hybrid(
            linear=self.mixer,
            full=self.attention,
            ratio=self.ratio,
            placement=self.placement,
            n_layers=n_layers,
        )
