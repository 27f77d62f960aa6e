"""The decoder: embedding, a stack of blocks laid out by a pattern word, norm, output head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, overload

import torch
import torch.nn.functional as F
from torch import nn

from lmtrain.layout import SequenceLayout
from lmtrain.models.layers import Linear, Mlp, RMSNorm, StreamNorm
from lmtrain.models.mixers.attention import Attention
from lmtrain.models.mixers.gated_deltanet import GatedDeltaNet
from lmtrain.models.mixers.mamba2 import Mamba2
from lmtrain.models.pattern import BlockSpec, parse
from lmtrain.ops.loss import LinearCrossEntropy, linear_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lmtrain.models.config import ModelConfig
    from lmtrain.models.mixers.base import SequenceMixer
    from lmtrain.ops.remat import Remat


Result = TypeVar("Result")
Lesson: TypeAlias = "Callable[[Decoder], Result]"
"""What distillation asks of a gathered model, its mixers or hidden states: `Decoder.forward`."""


class DecoderState(NamedTuple):
    """What generation carries: tokens seen so far, and the state of each mixer of each block."""

    seen: int
    mixers: list[list[Any]]


def build_mixer(letter: str, config: ModelConfig) -> nn.Module:
    """The mixer that a letter of the pattern names."""
    d_model, norm = config.d_model, config.norm
    match letter:
        case "A":
            return Attention(config.attention, d_model, norm)
        case "W":
            return Attention(config.sliding_window, d_model, norm)
        case "M":
            return Mamba2(config.mamba2, d_model, norm)
        case "G":
            return GatedDeltaNet(config.gated_deltanet, d_model, norm)
    raise AssertionError(f"pattern.parse let {letter!r} through")


class Block(nn.Module):
    """Mixers, then an MLP, each behind a norm and added to the residual stream.

    Where a block's attention says ``norm_after``, they read the stream itself and the norms come
    behind them. Mixers side by side read the same input; their outputs are normalised and averaged
    (Dong et al. 2024, arXiv 2411.13676), or averaged as they are (``branch_norm=False``).
    """

    def __init__(self, spec: BlockSpec, config: ModelConfig) -> None:
        super().__init__()
        self.spec = spec
        self.remat: Remat | None = None
        self.mixers = nn.ModuleList(build_mixer(letter, config) for letter in spec.mixers)
        alone = {"A": config.attention, "W": config.sliding_window}.get("".join(spec.mixers))
        self.norm_after = alone is not None and alone.norm_after
        norm = RMSNorm if self.norm_after else StreamNorm
        self.mixer_norm = norm.of(config.d_model, config.norm) if spec.mixers else None
        branches = len(spec.mixers) if len(spec.mixers) > 1 and config.branch_norm else 0
        self.branch_norms = nn.ModuleList(
            RMSNorm.of(config.d_model, config.norm) for _ in range(branches)
        )
        self.mlp_norm = norm.of(config.d_model, config.norm) if spec.mlp else None
        self.mlp = Mlp(config.mlp, config.d_model) if spec.mlp else None

    def forward(self, x: Tensor, layout: SequenceLayout) -> Tensor:
        """``[t, d]`` in and out; with ``remat``, the inside is computed again in backward."""
        return self._with_remat(self.run, x, layout)

    def mix(self, y: Tensor, layout: SequenceLayout) -> Tensor:
        """What the mixers give for ``y [t, d]``, which they read themselves: no norm is applied."""
        return self._with_remat(self._mix, y, layout)

    def run(self, x: Tensor, layout: SequenceLayout) -> Tensor:
        """``forward``, with everything kept that the backward pass needs."""
        if self.mixer_norm is None:
            return self._feed_forward(x)
        x, y = self._norm_before(self.mixer_norm, x)
        return self._feed_forward(x, self._norm_after(self.mixer_norm, self._mix(y, layout)))

    def extend(
        self, x: Tensor, layout: SequenceLayout, states: list[Any]
    ) -> tuple[Tensor, list[Any]]:
        """The next tokens of one document, and the states after them."""
        if self.mixer_norm is None:
            return self._feed_forward(x), []
        x, y = self._norm_before(self.mixer_norm, x)
        pairs = zip(self._sequence_mixers, states, strict=True)
        outputs, states = zip(*(m.extend(y, layout, s) for m, s in pairs), strict=True)  # type: ignore[assignment]
        mixed = self._norm_after(self.mixer_norm, self._merge(list(outputs)))
        return self._feed_forward(x, mixed), list(states)

    def initial_states(self) -> list[Any]:
        """The states of a document of no tokens, one a mixer."""
        return [mixer.initial_state() for mixer in self._sequence_mixers]

    @property
    def _sequence_mixers(self) -> list[SequenceMixer]:
        return list(self.mixers)  # type: ignore[arg-type]

    def _with_remat(
        self, region: Callable[..., Tensor], x: Tensor, layout: SequenceLayout
    ) -> Tensor:
        if self.remat is None or not torch.is_grad_enabled():
            return region(x, layout)
        return self.remat(region, x, layout)

    def _mix(self, y: Tensor, layout: SequenceLayout) -> Tensor:
        return self._merge([mixer(y, layout) for mixer in self.mixers])

    def _merge(self, outputs: list[Tensor]) -> Tensor:
        if len(outputs) == 1:
            return outputs[0]
        if self.branch_norms:
            outputs = [norm(y) for norm, y in zip(self.branch_norms, outputs, strict=True)]
        return torch.stack(outputs).mean(0)

    def _feed_forward(self, x: Tensor, mixed: Tensor | None = None) -> Tensor:
        """The stream after the MLP; what the mixers gave is added to it before."""
        if self.mlp is None or self.mlp_norm is None:
            return x if mixed is None else x + mixed
        x, y = self._norm_before(self.mlp_norm, x, mixed)
        return x + self._norm_after(self.mlp_norm, self.mlp(y))

    def _norm_before(
        self, norm: nn.Module, x: Tensor, added: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The stream with what is added to it, and what the next part reads of it."""
        if not self.norm_after:
            return norm(x, added)
        x = x if added is None else x + added
        return x, x

    def _norm_after(self, norm: nn.Module, y: Tensor) -> Tensor:
        return norm(y) if self.norm_after else y


class Decoder(nn.Module):
    """A stack of any mixers in any order, over packed documents.

    Parameters are created uninitialised: ``models.init.initialize`` fills them, after the model was
    sharded and materialised.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("model.vocab_size is null: set it to the tokenizer's vocabulary.")
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embedding = nn.Embedding.from_pretrained(
            torch.empty(config.vocab_size, config.d_model), freeze=False
        )
        specs = parse(config.pattern, config.n_layers)
        self.blocks = nn.ModuleList(Block(spec, config) for spec in specs)
        self.norm = RMSNorm.of(config.d_model, config.norm)
        self.head = None if config.tie_embeddings else Linear(config.d_model, config.vocab_size)

    @property
    def residual_branches(self) -> int:
        """How many outputs are added to the residual stream."""
        specs = (block.spec for block in self.blocks if isinstance(block, Block))
        return sum(bool(spec.mixers) + spec.mlp for spec in specs)

    @overload
    def forward(self, tokens: Tensor, layout: SequenceLayout) -> Tensor: ...
    @overload
    def forward(
        self, tokens: Tensor, layout: SequenceLayout, targets: Tensor, *, z_loss: float = 0.0
    ) -> LinearCrossEntropy: ...
    @overload
    def forward(
        self, tokens: Tensor, layout: SequenceLayout, targets: Tensor, *, lesson: Lesson[Result]
    ) -> Result: ...
    def forward(
        self,
        tokens: Tensor,
        layout: SequenceLayout,
        targets: Tensor | None = None,
        *,
        z_loss: float = 0.0,
        lesson: Lesson[Any] | None = None,
    ) -> Any:
        """Logits ``[t, vocab]`` of ``tokens [t]``; with ``targets [t]``, their loss instead.

        With a ``lesson``, what that makes of the model: engines have gathered it then.
        """
        if lesson is not None:
            return lesson(self)
        x = self.hidden(tokens, layout)
        return self.logits(x) if targets is None else self.losses(x, targets, z_loss)

    def hidden(
        self, tokens: Tensor, layout: SequenceLayout, *, blocks: int | None = None
    ) -> Tensor:
        """``[t, d]`` before the output head, after the first ``blocks`` blocks or all of them."""
        x = self._embed(tokens)
        for block in self.blocks[:blocks]:
            x = block(x, layout)
        return self.norm(x)

    def initial_states(self) -> DecoderState:
        """The state of a document of no tokens."""
        return DecoderState(0, [block.initial_states() for block in self.blocks])  # type: ignore[operator]

    @torch.no_grad()
    def extend(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read the next ``tokens [t]`` of one document: hidden states ``[t, d]``, and the state.

        The state of ``M``, ``G`` and ``W`` has a constant size; that of ``A`` grows with the
        document.
        """
        seen = state.seen + len(tokens)
        layout = SequenceLayout((0, seen), state.seen, seen, tokens.device)
        x, mixers = self._embed(tokens), []
        for block, states in zip(self.blocks, state.mixers, strict=True):
            x, states = block.extend(x, layout, states)  # type: ignore[operator]  # noqa: PLW2901
            mixers.append(states)
        return self.norm(x), DecoderState(seen, mixers)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[t, d] -> [t, vocab]``."""
        return F.linear(hidden, self.output_weight.to(hidden.dtype))

    def losses(self, hidden: Tensor, targets: Tensor, z_loss: float = 0.0) -> LinearCrossEntropy:
        """The loss of ``targets [t]`` after ``hidden [t, d]``."""
        return linear_cross_entropy(hidden, self.output_weight, targets, z_loss)

    @property
    def output_weight(self) -> Tensor:
        """``[vocab, d]``: the output head, which may be the embedding."""
        return self.embedding.weight if self.head is None else self.head.weight

    def _embed(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return x if self.compute_dtype is None else x.to(self.compute_dtype)
