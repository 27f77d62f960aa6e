"""Every operation in its obvious form: token by token, any dtype, any device.

This is the specification. Fast implementations must match it, outputs and gradients; nothing else
calls it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import silu

from lmtrain.batch import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lmtrain.layout import SequenceLayout


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layout: SequenceLayout,
    keys: SequenceLayout | None = None,
    window: int | None = None,
) -> Tensor:
    """Causal softmax attention inside documents: ``q [t, h, d], k, v [s, g, d] -> [t, h, d]``."""
    keys = keys or layout
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    i = torch.arange(layout.start, layout.stop)[:, None]
    j = torch.arange(keys.start, keys.stop)[None]
    visible = (j <= i) & (layout.document[:, None] == keys.document[None])
    if window is not None:
        visible &= i - j < window
    scores = torch.einsum("thd,shd->hts", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("hts,shd->thd", scores.masked_fill(~visible, -torch.inf).softmax(-1), v)


def rotary(x: Tensor, position: Tensor, theta: float, *, width: int) -> Tensor:
    """Rotate pairs ``(i, i + width/2)`` of ``x [t, h, d]`` by ``position * theta^(-2i/width)``."""
    half = width // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = (position[:, None] * frequency)[:, None].to(x.dtype)
    return rotate(x, angle.cos(), angle.sin())


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each head ``(a, b, rest)`` as ``(a cos - b sin, b cos + a sin, rest)``."""
    n = cos.shape[-1]
    a, b = x[..., :n], x[..., n : 2 * n]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 2 * n :]], -1)


def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    widths: Sequence[int],
    *,
    layout: SequenceLayout,
) -> tuple[Tensor, ...]:
    """Causal depthwise convolution and SiLU: ``x [t, c], weight [taps, c], bias [c]``.

    The last tap meets the token itself; a tap that would reach another document meets zero. Gives
    ``[t, width]`` for each of ``widths``, whose sum is ``c``.
    """
    out = []
    for t, position in enumerate(layout.position.tolist()):
        taps = min(weight.shape[0], position + 1, t + 1)
        out.append((x[t + 1 - taps : t + 1] * weight[-taps:]).sum(0))
    y = torch.stack(out)
    return silu(y if bias is None else y + bias).split(list(widths), -1)


def delta_gates(
    dt: Tensor, beta: Tensor, bias: Tensor, A_log: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """``-e^A_log log(1 + e^(dt + bias))`` and ``scale / (1 + e^-beta)``: ``[t, h]``."""
    step = torch.logaddexp(dt + bias, torch.zeros_like(dt))
    return -A_log.exp() * step, scale / (1 + (-beta).exp())


def discretize(u: Tensor, dt: Tensor, bias: Tensor, A_log: Tensor) -> tuple[Tensor, Tensor]:
    """``step u [t, h, p]`` and ``-e^A_log step [t, h]`` of ``step = log(1 + e^(dt + bias))``."""
    step = torch.logaddexp(dt + bias, torch.zeros_like(dt))
    return step[..., None] * u, -A_log.exp() * step


def ssd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    *,
    layout: SequenceLayout,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``S = e^decay S + k v^T; o = S^T q``, zero at document starts (shapes of ``ScalarDecay``)."""
    q, k = (x.repeat_interleave(v.shape[1] // x.shape[1], 1) for x in (q, k))
    state = v.new_zeros(v.shape[1], k.shape[2], v.shape[2]) if initial is None else initial
    out = []
    for t, opens in enumerate(layout.opens.tolist()):
        state = torch.zeros_like(state) if opens else state
        state = decay[t].exp()[:, None, None] * state + k[t][:, :, None] * v[t][:, None, :]
        out.append(torch.einsum("hk,hkv->hv", q[t], state))
    return torch.stack(out), state


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    *,
    layout: SequenceLayout,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``S = e^decay S; S += k (beta (v - S^T k))^T; o = S^T q`` (shapes of ``GatedDelta``)."""
    q, k = (x.repeat_interleave(v.shape[1] // x.shape[1], 1) for x in (q, k))
    state = v.new_zeros(v.shape[1], k.shape[2], v.shape[2]) if initial is None else initial
    out = []
    for t, opens in enumerate(layout.opens.tolist()):
        state = torch.zeros_like(state) if opens else state
        state = decay[t].exp()[:, None, None] * state
        error = v[t] - torch.einsum("hk,hkv->hv", k[t], state)
        state = state + k[t][:, :, None] * (beta[t][:, None] * error)[:, None, :]
        out.append(torch.einsum("hk,hkv->hv", q[t], state))
    return torch.stack(out), state


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """``x / sqrt(mean(x²) + eps) * weight`` over the last dimension."""
    y = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return y if weight is None else y * weight


def add_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + added``, and ``rms_norm`` of it."""
    stream = x if added is None else x + added
    return stream, rms_norm(stream, weight, eps)


def l2_norm(x: Tensor, scale: float = 1.0, eps: float = 1e-6) -> Tensor:
    """``scale * x / sqrt(sum(x²) + eps)`` over the last dimension."""
    return scale * x / (x.pow(2).sum(-1, keepdim=True) + eps).sqrt()


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` for ``gate_up [t, 2 h]``, gate first."""
    gate, up = gate_up.chunk(2, -1)
    return silu(gate) * up


def norm_then_gate(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``rms_norm(x) * weight * silu(gate)``: ``x, gate [t, h, d], weight [d] -> [t, h, d]``."""
    return rms_norm(x, weight, eps) * silu(gate)


def gate_then_norm(
    x: Tensor, gate: Tensor, weight: Tensor, eps: float, skip: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """``rms_norm(x * silu(gate)) * weight``: ``x, gate [t, g, d], weight [g * d] -> [t, g, d]``.

    With ``skip = (u [t, g, d], scale [n])``, ``x + scale * u`` takes the place of ``x``.
    """
    if skip is not None:
        u, scale = skip
        x = x + u * scale.repeat_interleave(weight.numel() // len(scale)).view(x.shape[1:])
    return rms_norm(x * silu(gate), weight.view(x.shape[1:]), eps)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Summed loss and per-token nats of ``targets [t]`` under logits ``hidden @ weight.T``."""
    logits = hidden @ weight.T
    kept = targets != IGNORED
    normaliser = logits.logsumexp(-1)
    chosen = logits.gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
    nll = torch.where(kept, normaliser - chosen, 0.0)
    return (nll + z_loss * torch.where(kept, normaliser.pow(2), 0.0)).sum(), nll.detach()
