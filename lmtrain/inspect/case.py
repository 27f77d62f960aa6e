"""A run on given machines: everything that memory and time follow from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from lmtrain import budget
from lmtrain.config import RunConfig
from lmtrain.inspect.hardware import Hardware
from lmtrain.layout import SequenceLayout
from lmtrain.models.accounting import ModelCost
from lmtrain.models.activations import FP32
from lmtrain.models.config import ModelConfig
from lmtrain.parallel.cost import Choice, choose
from lmtrain.settings.engine import EngineKind, Precision, Remat
from lmtrain.shapes import layers, shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lmtrain.models.pattern import BlockSpec


@dataclass(frozen=True)
class Case:
    """A resolved configuration on ``world`` processes, its rows of documents of one length."""

    config: RunConfig
    hardware: Hardware
    world: int
    length: int
    """Tokens of a document."""
    teacher: ModelConfig | None = None
    """Of ``distill.teacher``."""

    def but(
        self,
        changes: Mapping[str, object] | None = None,
        *,
        world: int | None = None,
        length: int | None = None,
    ) -> Case:
        """The same with other values of keys like ``train.accumulate``."""
        config = self.config
        for name, value in (changes or {}).items():
            section, key = name.split(".")
            config = replace(config, **{section: replace(getattr(config, section), **{key: value})})
        world, length = world or self.world, length or self.length
        return replace(self, config=config, world=world, length=length)

    @property
    def rows(self) -> int:
        """Rows that are computed at once, by as many groups of processes."""
        return self.world // self.config.parallel.sequence

    @property
    def row(self) -> int:
        """Tokens of a row."""
        return self.config.train.tokens_per_step // (self.config.train.accumulate * self.rows)

    @property
    def span(self) -> int:
        """Tokens of a row that one process holds."""
        return self.row // self.config.parallel.sequence

    @property
    def possible(self) -> bool:
        """Whether processes divide into rows, and rows into documents and spans."""
        sequence, train = self.config.parallel.sequence, self.config.train
        if self.world % sequence or train.tokens_per_step % (train.accumulate * self.rows):
            return False
        return self.row > 0 and self.row % self.length == 0 and self.row % sequence == 0

    @property
    def cuda(self) -> bool:
        """Whether cards compute."""
        return self.hardware.cuda

    @property
    def fused(self) -> bool:
        """Whether kernels of a GPU compute recurrences, convolutions and norms."""
        return self.cuda and self.config.ops.backend not in ("torch", "reference")

    @property
    def element(self) -> int:
        """Bytes of an activation."""
        return 2 if self.config.engine.precision is Precision.bf16 else FP32

    @property
    def gathered(self) -> int:
        """Bytes of a parameter of a block, as engines that share parameters send it."""
        engine = self.config.engine
        narrow = engine.kind is EngineKind.fsdp and engine.gather is Precision.bf16
        return 2 if narrow else FP32

    @cached_property
    def cost(self) -> ModelCost:
        """Of the model."""
        return ModelCost.of(self.config.model)

    @cached_property
    def taught(self) -> Case | None:
        """The teacher, as a run of its own on the same machines; None without one."""
        if self.teacher is None:
            return None
        engine = replace(self.config.engine, remat=Remat.none, remat_budget=None)
        config = replace(self.config, model=self.teacher, engine=engine)
        return replace(self, config=config, teacher=None)

    @property
    def specs(self) -> list[BlockSpec]:
        """Its blocks."""
        return [spec for spec, _ in self.cost.blocks]

    @cached_property
    def remats(self) -> list[Remat]:
        """What each block keeps.

        Raises:
            ValueError: ``engine.remat_budget`` is too small.
        """
        engine, model = self.config.engine, self.config.model
        if engine.remat is not Remat.budget:
            return [engine.remat] * len(self.cost.blocks)
        share = engine.remat_budget or 1.0
        return budget.choose(model, share, element=self.element, fused=self.fused)

    @property
    def largest(self) -> int:
        """Numbers of the largest matrix of a block, at most."""
        return max(block.parameters for _, block in self.cost.blocks) // 2

    @cached_property
    def strategies(self) -> dict[str, Choice]:
        """What the mixers of each letter do.

        Raises:
            ValueError: a forced strategy cannot serve its mixer.
        """
        parallel, hardware = self.config.parallel, self.hardware
        if parallel.sequence == 1:
            return {}
        bounds = SequenceLayout.whole(range(0, self.row + 1, self.length)).bounds
        return {
            letter: choose(
                *(shape, bounds, parallel.sequence, hardware.links, hardware.rates),
                parallel.strategy.of(letter),
                element=self.element,
            )
            for letter, shape in shapes(self.config.model).items()
        }

    @property
    def strategy_buffers(self) -> int:
        """Bytes that strategies work in; one layer at a time."""
        return max((choice.times.memory for choice in self.strategies.values()), default=0)

    @property
    def layers(self) -> dict[str, int]:
        """How many mixers of each letter."""
        return layers(self.config.model)
