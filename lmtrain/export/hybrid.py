"""A hybrid from a transformer: which of its parameters come from where.

| parameter of the hybrid | comes from |
|---|---|
| embedding, head, norms, MLPs, mixers whose letter stays | the source, as they are |
| ``W`` where the source has ``A``, or ``A`` where it has ``W`` | that attention, as it is |
| ``G``: rows ``q k v`` of ``in_proj``; ``out_proj`` | ``q k v``; ``o`` |
| ``M``: rows ``C B x`` of ``in_proj``; ``out_proj`` | ``q k v``; ``o`` |
| ``G``, ``M``: rows of the gate | the attention's output gate if it has one, else drawn |
| ``G``, ``M``: taps of the short convolution over these rows | 1 for the token itself, else 0 |
| the rest of ``G`` and ``M``: beta, dt, decays, ``D``, biases, norms of heads | `models.init` |

Queries, keys and values of attention are what a linear recurrence reads and writes with (Wang et
al. 2024, arXiv 2408.15237; Goldstein et al. 2025, arXiv 2505.03005). New heads that are a multiple
of the source's repeat them, as grouped queries do; fewer take the mean of a group, and the sum of
its columns of ``o``. Scales of head norms are multiplied into the rows of ``q`` and ``k``. These
are taken before their rotation: a recurrence has no rotary positions, it knows order by its decay
and its convolution. Where a width of the new mixer is not that of the attention's heads, its rows
are drawn, as they are where heads do not group evenly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from lmtrain.export.hybrid_config import ATTENTION, section
from lmtrain.models.config import ModelConfig
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import draw
from lmtrain.models.pattern import parse
from lmtrain.train.stored import Read

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class Heads(NamedTuple):
    """The projections of an attention, ``[heads, width, d]``, of ``k`` and ``v`` with fewer heads.

    ``gate`` is None where there is none; ``o`` has the columns of the output projection.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor | None
    o: Tensor


class Rows(NamedTuple):
    """Some rows of a projection, from ``source`` by heads if that fits."""

    source: Tensor | None
    heads: int
    width: int


@dataclass
class Hybrid:
    """A stack with mixers of another pattern, and its parameters made of those of the source."""

    source: ModelConfig
    model: ModelConfig
    read: Read
    """Parameters of the source by name."""
    seed: int = 0
    """Of what is drawn."""
    counts: dict[str, int] = field(default_factory=lambda: {"kept": 0, "mapped": 0, "drawn": 0})
    """Numbers by where they came from, of the parameters that were made."""

    def __post_init__(self) -> None:
        with torch.device("meta"):
            self._blank = Decoder(self.model)
        self._old = parse(self.source.pattern, self.source.n_layers)
        self._new = parse(self.model.pattern, self.model.n_layers)

    @property
    def made(self) -> dict[int, str]:
        """Blocks that get a recurrence in place of attention, and its letter."""
        pairs = enumerate(zip(self._old, self._new, strict=True))
        return {i: b.mixers[0] for i, (a, b) in pairs if a != b and b.mixers not in ATTENTION}

    def __getitem__(self, name: str) -> Tensor:
        """A parameter of the hybrid, in fp32."""
        block, _, own = name.removeprefix("blocks.").partition(".mixers.0.")
        if not own or int(block) not in self.made:
            values = self.read(name)
            self.counts["kept"] += values.numel()
            return values
        values = draw(self._blank, name, self._blank.get_parameter(name).shape, seed=self.seed)
        mapped = self._map(int(block), own, values)
        self.counts["mapped"] += mapped
        self.counts["drawn"] += values.numel() - mapped
        return values

    def summary(self) -> str:
        """How many numbers came from where, after all were made."""
        numbers = {word: f"{word:<8}{count:>14,}" for word, count in self.counts.items()}
        where = "; ".join(
            f"{letter} in blocks {', '.join(str(i) for i, x in self.made.items() if x == letter)}"
            for letter in sorted(set(self.made.values()))
        )
        lines = [f"  {numbers['kept']} numbers as they are in the source"]
        if self.made:
            lines += [
                f"  {numbers['mapped']} from attention, before its rotary positions: {where}",
                f"  {numbers['drawn']} of gates, decays, write strengths and norms of heads",
            ]
        return "\n".join(lines)

    def _map(self, block: int, own: str, values: Tensor) -> int:
        """Put what comes from the attention into ``values``; how many numbers that is."""
        heads = self._heads(block)
        match self.made[block], own:
            case "G", "in_proj.weight":
                channels, gate, _ = self._delta(heads)
                return _overlay(values, [(p, _regrouped(p)) for p in (*channels, gate)])
            case "M", "in_proj.weight":
                channels, gate, _ = self._mamba2(heads)
                return _overlay(values, [(p, _regrouped(p)) for p in (gate, *channels)])
            case letter, "out_proj.weight":
                *_, out = (self._delta if letter == "G" else self._mamba2)(heads)
                return _overlay(values.T, [(out, _regrouped(out, total=True))])
            case letter, "conv_weight":
                channels, *_ = (self._delta if letter == "G" else self._mamba2)(heads)
                return _overlay(values.T, [(p, _token_itself(p, len(values))) for p in channels])
            case _:
                return 0

    def _delta(self, heads: Heads) -> tuple[list[Rows], Rows, Rows]:
        """What Gated DeltaNet convolves, its gate, and the columns of its output projection."""
        c = self.model.gated_deltanet
        keys, values = (c.key_heads, c.key_dim), (c.value_heads, c.value_dim)
        channels = [Rows(heads.q, *keys), Rows(heads.k, *keys), Rows(heads.v, *values)]
        return channels, Rows(heads.gate, *values), Rows(heads.o, *values)

    def _mamba2(self, heads: Heads) -> tuple[list[Rows], Rows, Rows]:
        """What Mamba-2 convolves, its gate, and the columns of its output projection."""
        c = self.model.mamba2
        states, values = (c.groups, c.state_dim), (c.heads(self.model.d_model), c.head_dim)
        channels = [Rows(heads.v, *values), Rows(heads.k, *states), Rows(heads.q, *states)]
        return channels, Rows(heads.gate, *values), Rows(heads.o, *values)

    def _heads(self, block: int) -> Heads:
        """The attention of a block of the source."""
        a, prefix = section(self.source, self._old[block]), f"blocks.{block}.mixers.0."
        width, d = a.width(self.source.d_model), self.source.d_model
        sizes = [a.heads, a.kv_heads, a.kv_heads, a.heads if a.output_gate else 0]
        rows = self.read(f"{prefix}in_proj.weight").view(-1, width, d)
        q, k, v, gate = rows.split(sizes)
        if a.qk_norm:
            centre = 1.0 if self.source.norm.zero_centered else 0.0
            scales = (self.read(f"{prefix}{n}_norm.weight") + centre for n in "qk")
            q, k = (x * scale.view(-1, width, 1) for x, scale in zip((q, k), scales, strict=True))
        o = self.read(f"{prefix}out_proj.weight").T.reshape(-1, width, d)
        return Heads(q, k, v, gate if a.output_gate else None, o)


def _fits(part: Rows) -> bool:
    """Whether rows can come from their source: the same width, and heads that group evenly."""
    if part.source is None or part.source.shape[1] != part.width:
        return False
    there = len(part.source)
    return part.heads % there == 0 or there % part.heads == 0


def _regrouped(part: Rows, *, total: bool = False) -> Tensor | None:
    """``[heads * width, d]`` of a part: repeated heads, or means of groups; None if nothing fits.

    With ``total``, their sum over the source's heads stays: of columns that heads are added up by.
    """
    if not _fits(part):
        return None
    x = part.source
    assert x is not None
    if part.heads % len(x) == 0:
        times = part.heads // len(x)
        x = x.repeat_interleave(times, 0) / (times if total else 1)
    else:
        groups = x.unflatten(0, (part.heads, -1))
        x = groups.sum(1) if total else groups.mean(1)
    return x.flatten(0, 1)


def _token_itself(part: Rows, taps: int) -> Tensor | None:
    """``[heads * width, taps]`` of a convolution that gives its input; None if nothing fits."""
    if not _fits(part):
        return None
    return torch.eye(taps)[-1].expand(part.heads * part.width, taps)


def _overlay(values: Tensor, pieces: Iterable[tuple[Rows, Tensor | None]]) -> int:
    """Put each piece that is there over its rows of ``values``; how many numbers that is."""
    first = count = 0
    for part, piece in pieces:
        last = first + part.heads * part.width
        if piece is not None:
            values[first:last] = piece
            count += piece.numel()
        first = last
    return count
