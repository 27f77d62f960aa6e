# pyright: basic, reportAttributeAccessIssue=false, reportOptionalCall=false
# pyright: reportAssignmentType=false
"""A model trained with lmtrain, in torch alone; needs transformers 5 and nothing of lmtrain.

Blocks of full attention, sliding-window attention, Mamba-2 (arXiv 2405.21060) and Gated DeltaNet
(arXiv 2412.06464) in any order, alone or side by side, with or without MLPs.

Padding on the left, chunked prefills and documents packed by ``position_ids`` are exact; what would
mix documents raises.
"""

from .configuration_lmtrain import LmtrainConfig  # isort: skip  first: it refuses transformers 4

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, StaticCache
from transformers.masking_utils import (
    create_causal_mask,
    create_recurrent_attention_mask,
    create_sliding_window_causal_mask,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple

CHUNK = 64
BETAS = ("fast", "slow")
ATTENTION = {
    "full_attention": create_causal_mask,
    "sliding_attention": create_sliding_window_causal_mask,
}
MASKS = {**ATTENTION, "linear_attention": create_recurrent_attention_mask}


def rms_norm(x, weight, eps):
    """``x / sqrt(mean(x²) + eps) * weight``, computed in fp32."""
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
    return (y if weight is None else y * weight.float()).to(x.dtype)


class LmtrainRMSNorm(nn.Module):
    """RMSNorm with the scale ``weight`` or ``1 + weight``."""

    def __init__(self, width, norm):
        super().__init__()
        self.eps, self.zero_centered = norm["eps"], norm["zero_centered"]
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        """``[..., width]`` in and out."""
        weight = self.weight.float()
        return rms_norm(x, 1 + weight if self.zero_centered else weight, self.eps)


def frequencies(width, settings, device):
    """Radians per token of each pair of a head, and what the pairs are multiplied by.

    ``rope_scaling`` of ``settings`` is none, linear (position interpolation, arXiv 2306.15595),
    yarn (arXiv 2309.00071) or llama3 (arXiv 2407.21783), as `transformers` defines them.
    """
    exact = torch.float32 if device.type == "mps" else torch.float64
    theta, scaling = settings["rope_theta"], settings["rope_scaling"]
    plain = theta ** -(torch.arange(0, width, 2, dtype=exact, device=device) / width)
    kind, factor = scaling["kind"], scaling["factor"]
    if kind == "none":
        return plain, 1.0
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "llama3":
        low, high = (scaling[f"{border}_freq_factor"] for border in ("low", "high"))
        turns = scaling["original_length"] * plain / (2 * math.pi)
        slowed = ((high - turns) / (high - low)).clamp(0, 1)
        return plain * (1 - slowed + slowed / factor), 1.0
    turns = [scaling["original_length"] / (2 * math.pi * scaling[f"beta_{b}"]) for b in BETAS]
    first, last = (width * math.log(each) / (2 * math.log(theta)) for each in turns)
    first, last = max(math.floor(first), 0), min(math.ceil(last), width - 1)
    pair = torch.arange(width // 2, dtype=exact, device=device)
    slowed = ((pair - first) / ((last - first) or 1e-3)).clamp(0, 1)
    grown = scaling["attention_factor"]
    grown = 0.1 * math.log(factor) + 1 if grown is None else grown
    return plain * (1 - slowed + slowed / factor), grown


def rotate(x, position, settings):
    """Rotary positions, pairs ``(i, i + width/2)`` of the part that turns; ``x [b, h, t, d]``.

    The table is made here: a buffer made in ``__init__`` would be lost, as models are born on the
    meta device.
    """
    width = int(x.shape[-1] * settings["partial_rotary_factor"])
    radians, grown = frequencies(width, settings, x.device)
    angle = position[:, None, :, None].to(radians.dtype) * radians
    cos, sin = (grown * angle.cos()).float(), (grown * angle.sin()).float()
    a, b, still = x.float().split([width // 2, width // 2, x.shape[-1] - width], -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, still], -1).to(x.dtype)


def eager_attention(module, query, key, value, attention_mask, scaling, **kwargs):  # noqa: ARG001
    """Softmax attention by its definition."""
    key, value = (x.repeat_interleave(module.num_key_value_groups, 1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class LmtrainAttention(nn.Module):
    """Grouped-query attention, full or over a window."""

    def __init__(self, config, letter, layer_idx):
        super().__init__()
        stack = config.stack
        a = stack["attention" if letter == "A" else "sliding_window"]
        self.config, self.settings, self.layer_idx = config, a, layer_idx
        self.head_dim = a["head_dim"]
        self.num_key_value_groups = a["heads"] // a["kv_heads"]
        self.scaling, self.attention_dropout, self.is_causal = self.head_dim**-0.5, 0.0, True
        self.sliding_window = None if letter == "A" else a["window"]
        inner, shared = a["heads"] * self.head_dim, a["kv_heads"] * self.head_dim
        self.widths = [inner, shared, shared, inner if a["output_gate"] else 0]
        self.in_proj = nn.Linear(stack["d_model"], sum(self.widths), bias=False)
        self.out_proj = nn.Linear(inner, stack["d_model"], bias=False)
        if a["qk_norm"]:
            joint = a["qk_norm_joint"]
            self.q_norm = LmtrainRMSNorm(inner if joint else self.head_dim, stack["norm"])
            self.k_norm = LmtrainRMSNorm(shared if joint else self.head_dim, stack["norm"])

    def forward(self, x, *, masks, position_ids, past_key_values=None, **kwargs):
        """``[b, t, d]`` in and out."""
        a = self.settings
        q, k, v, gate = self.in_proj(x).split(self.widths, -1)
        if a["qk_norm"] and a["qk_norm_joint"]:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)) for y in (q, k, v))
        if a["qk_norm"] and not a["qk_norm_joint"]:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        if a["rope"]:
            q, k = (rotate(y, position_ids, a) for y in (q, k))
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        kind = self.config.layer_types[self.layer_idx]
        out, _ = attend(
            self,
            *(q, k, v, masks[kind]),
            dropout=0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        out = out.flatten(2)
        return self.out_proj(out * gate.sigmoid() if a["output_gate"] else out)


def short_conv(x, weight, bias, cache, layer_idx, seq_idx):
    """``silu`` of the causal depthwise convolution; ``x [b, t, c], weight [taps, c]``.

    The cache keeps as many columns as there are taps, which is what transformers stores.
    """
    taps, t = len(weight), x.shape[1]
    x, weight = x.transpose(1, 2), weight.to(x.dtype)
    if cache is not None:
        x = cache.update_conv_state(x, layer_idx, conv_kernel_size=taps)
    if seq_idx is None:
        y = F.conv1d(F.pad(x, (taps - 1, 0)), weight.T[:, None], groups=x.shape[1])
    else:
        y = torch.zeros_like(x)
        for lag in range(min(taps, t)):
            same = F.pad(seq_idx, (lag, 0), value=-1)[:, :t] == seq_idx
            y = y + F.pad(x, (lag, 0))[..., :t] * same[:, None] * weight[-1 - lag][:, None]
    y = y[..., -t:].transpose(1, 2)
    return F.silu(y if bias is None else y + bias.to(y.dtype))


def chunked(x):
    """``[b, t, h, ...] -> [b, h, chunks, CHUNK, ...]``, zeros behind the end."""
    x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, -x.shape[1] % CHUNK))
    return x.unflatten(1, (-1, CHUNK)).movedim(3, 1)


def document_masks(seq_idx, t):
    """What documents let pass, by chunk.

    ``pair``: two tokens of one document; ``enter``: a token reads the state before the chunk;
    ``leave``: a token reaches the state after it; ``stay``: the state passes the chunk.
    """
    d = F.pad(seq_idx, (0, -t % CHUNK), value=-1).unflatten(1, (-1, CHUNK))[:, None]
    before = torch.cat([torch.full_like(d[:, :, :1, :1], -2), d[:, :, :-1, -1:]], 2)
    return (
        d[..., :, None] == d[..., None, :],
        (d == before)[..., None],
        (d == d[..., -1:])[..., None],
        (d[..., -1:] == before)[..., None],
    )


def decays(g, seq_idx, t):
    """Decay between two tokens, from the chunk's start, to its end, and through it."""
    g = chunked(g).cumsum(-1)
    future = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=g.device).triu(1)
    pair = (g[..., :, None] - g[..., None, :]).masked_fill(future, -torch.inf).exp()
    enter, leave = g.exp()[..., None], (g[..., -1:] - g).exp()[..., None]
    stay = g[..., -1].exp()[..., None, None]
    if seq_idx is None:
        return pair, enter, leave, stay
    parts = zip((pair, enter, leave, stay), document_masks(seq_idx, t), strict=True)
    return tuple(x * mask for x, mask in parts)


def scan(read, enter, stay, write, state):
    """Outputs of a recurrence from what each chunk reads, and the last state."""
    out = []
    for i in range(enter.shape[2]):
        y, new = read(i, state)
        out.append(y + enter[:, :, i] @ state)
        state = state * stay[:, :, i] + write[:, :, i].transpose(-1, -2) @ new
    return torch.stack(out, 2), state


def gated_delta(q, k, v, g, beta, state, seq_idx):
    """``S = e^g S; S += k (beta (v - kᵀS))ᵀ; o = qᵀS``, in fp32; ``[b, t, h, ...]``."""
    t, dk = q.shape[1], q.shape[-1]
    q, k, v, beta = chunked(q * dk**-0.5), chunked(k), chunked(v), chunked(beta)[..., None]
    pair, enter, leave, stay = decays(g, seq_idx, t)
    solve = (k * beta) @ k.transpose(-1, -2) * pair
    right = torch.cat([v * beta, k * beta * enter], -1)
    both = torch.linalg.solve_triangular(solve, right, upper=False, unitriangular=True)
    u, w = both.split([v.shape[-1], dk], -1)
    scores = q @ k.transpose(-1, -2) * pair
    if state is None:
        state = q.new_zeros(*q.shape[:2], dk, v.shape[-1])

    def read(i, state):
        new = u[:, :, i] - w[:, :, i] @ state
        return scores[:, :, i] @ new, new

    out, state = scan(read, q * enter, stay, k * leave, state)
    return out.movedim(1, 3).flatten(1, 2)[:, :t], state


def ssd(x, dt, a, B, C, state, seq_idx):
    """``S = e^(dt a) S + B (dt x)ᵀ; y = Cᵀ S``, in fp32; ``[b, t, h, ...]``."""
    t = x.shape[1]
    pair, enter, leave, stay = decays(dt * a, seq_idx, t)
    x, B, C = chunked(x * dt[..., None]), chunked(B), chunked(C)
    scores = C @ B.transpose(-1, -2) * pair
    if state is None:
        state = x.new_zeros(*x.shape[:2], B.shape[-1], x.shape[-1])

    def read(i, state):  # noqa: ARG001
        return scores[:, :, i] @ x[:, :, i], x[:, :, i]

    out, state = scan(read, C * enter, stay, B * leave, state)
    return out.movedim(1, 3).flatten(1, 2)[:, :t], state


def recurrent_state(cache, layer_idx):
    """The state that a cache holds for a layer, None at the start of a document."""
    if cache is None:
        return None
    held = cache.layers[layer_idx].recurrent_states
    return held[0] if isinstance(held, dict) else held


class LmtrainGatedDeltaNet(nn.Module):
    """A memory that decays and is corrected by the delta rule."""

    def __init__(self, config, layer_idx):
        super().__init__()
        d, g = config.stack["d_model"], config.stack["gated_deltanet"]
        self.settings, self.layer_idx, self.eps = g, layer_idx, config.stack["norm"]["eps"]
        keys, values = g["key_heads"] * g["key_dim"], g["value_heads"] * g["value_dim"]
        self.channels, heads = [keys, keys, values], g["value_heads"]
        self.rows = [sum(self.channels), values, heads, heads]
        self.in_proj = nn.Linear(d, sum(self.rows), bias=False)
        self.conv_weight = nn.Parameter(torch.zeros(g["conv_width"], sum(self.channels)))
        self.dt_bias = nn.Parameter(torch.zeros(heads))
        self.A_log = nn.Parameter(torch.zeros(heads))
        self.norm = LmtrainRMSNorm(g["value_dim"], {"eps": self.eps, "zero_centered": False})
        self.out_proj = nn.Linear(values, d, bias=False)

    def forward(self, x, *, masks, past_key_values=None, **kwargs):  # noqa: ARG002
        """``[b, t, d]`` in and out."""
        g, mask, seq_idx = self.settings, masks["linear_attention"], masks["documents"]
        x = x if mask is None else x * mask[..., None].to(x.dtype)
        qkv, gate, beta, dt = self.in_proj(x).split(self.rows, -1)
        qkv = short_conv(qkv, self.conv_weight, None, past_key_values, self.layer_idx, seq_idx)
        heads = g["key_heads"], g["key_heads"], g["value_heads"]
        parts = zip(qkv.float().split(self.channels, -1), heads, strict=True)
        q, k, v = (y.unflatten(-1, (n, -1)) for y, n in parts)
        times = g["value_heads"] // g["key_heads"]
        q, k = (y * torch.rsqrt(y.pow(2).sum(-1, keepdim=True) + 1e-6) for y in (q, k))
        q, k = (y.repeat_interleave(times, 2) for y in (q, k))
        beta = g["beta_scale"] * beta.float().sigmoid()
        decay = -self.A_log.float().exp() * F.softplus(dt.float() + self.dt_bias.float())
        held = recurrent_state(past_key_values, self.layer_idx)
        out, state = gated_delta(q, k, v, decay, beta, held, seq_idx)
        if past_key_values is not None:
            past_key_values.update_recurrent_state(state, self.layer_idx)
        out = self.norm(out.to(x.dtype)) * F.silu(gate.unflatten(-1, (g["value_heads"], -1)))
        return self.out_proj(out.flatten(2))


class LmtrainSSD(nn.Module):
    """Mamba-2. Its name is not in the class's: transformers treats models called so in its way."""

    def __init__(self, config, layer_idx):
        super().__init__()
        d, m = config.stack["d_model"], config.stack["mamba2"]
        self.settings, self.layer_idx, self.eps = m, layer_idx, config.stack["norm"]["eps"]
        inner, shared = m["inner"], m["groups"] * m["state_dim"]
        self.heads, self.channels = inner // m["head_dim"], [inner, shared, shared]
        self.rows = [inner, sum(self.channels), self.heads]
        self.in_proj = nn.Linear(d, sum(self.rows), bias=False)
        channels = sum(self.channels)
        self.conv_weight = nn.Parameter(torch.zeros(m["conv_width"], channels))
        self.conv_bias = nn.Parameter(torch.zeros(channels)) if m["conv_bias"] else None
        self.dt_bias = nn.Parameter(torch.zeros(self.heads))
        self.A_log = nn.Parameter(torch.zeros(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm_weight = nn.Parameter(torch.ones(inner)) if m["norm"] else None
        self.out_proj = nn.Linear(inner, d, bias=False)

    def forward(self, x, *, masks, past_key_values=None, **kwargs):  # noqa: ARG002
        """``[b, t, d]`` in and out."""
        m, mask, seq_idx = self.settings, masks["linear_attention"], masks["documents"]
        mask = None if mask is None else mask[..., None].to(x.dtype)
        x = x if mask is None else x * mask
        gate, xbc, dt = self.in_proj(x).split(self.rows, -1)
        cache, at = past_key_values, self.layer_idx
        xbc = short_conv(xbc, self.conv_weight, self.conv_bias, cache, at, seq_idx)
        if mask is not None:  # the bias of the convolution would write padding into the state
            xbc = xbc * mask
        u, B, C = xbc.float().split(self.channels, -1)
        u = u.unflatten(-1, (self.heads, -1))
        times = self.heads // m["groups"]
        parts = (y.unflatten(-1, (m["groups"], -1)) for y in (B, C))
        B, C = (y.repeat_interleave(times, 2) for y in parts)
        dt = F.softplus(dt.float() + self.dt_bias.float())
        held = recurrent_state(cache, at)
        y, state = ssd(u, dt, -self.A_log.float().exp(), B, C, held, seq_idx)
        if cache is not None:
            cache.update_recurrent_state(state, at)
        y = (y + self.D.float()[:, None] * u).flatten(2) * F.silu(gate.float())
        if self.norm_weight is not None:
            y = rms_norm(y.unflatten(-1, (m["groups"], -1)), None, self.eps).flatten(2)
            y = y * self.norm_weight.float()
        return self.out_proj(y.to(x.dtype))


class LmtrainMLP(nn.Module):
    """The feed-forward half of a block."""

    def __init__(self, config):
        super().__init__()
        d, mlp = config.stack["d_model"], config.stack["mlp"]
        self.gated = mlp["kind"] == "swiglu"
        self.in_proj = nn.Linear(d, mlp["hidden"] * (2 if self.gated else 1), bias=False)
        self.out_proj = nn.Linear(mlp["hidden"], d, bias=False)

    def forward(self, x):
        """``[..., d]`` in and out."""
        y = self.in_proj(x)
        if not self.gated:
            return self.out_proj(F.relu(y).square())
        gate, up = y.chunk(2, -1)
        return self.out_proj(F.silu(gate) * up)


def build_mixer(letter, config, layer_idx):
    """The mixer that a letter names."""
    if letter in "AW":
        return LmtrainAttention(config, letter, layer_idx)
    return (LmtrainSSD if letter == "M" else LmtrainGatedDeltaNet)(config, layer_idx)


class LmtrainBlock(GradientCheckpointingLayer):
    """Mixers side by side, then an MLP, each with its norm."""

    def __init__(self, config, block, first):
        super().__init__()
        d, letters, norm = config.stack["d_model"], block["mixers"], config.stack["norm"]
        self.mixers = nn.ModuleList(
            build_mixer(letter, config, first + i) for i, letter in enumerate(letters)
        )
        self.mixer_norm = LmtrainRMSNorm(d, norm) if letters else None
        branches = len(letters) if len(letters) > 1 and config.stack["branch_norm"] else 0
        self.branch_norms = nn.ModuleList(LmtrainRMSNorm(d, norm) for _ in range(branches))
        self.mlp_norm = LmtrainRMSNorm(d, norm) if block["mlp"] else None
        self.mlp = LmtrainMLP(config) if block["mlp"] else None
        alone = {"A": "attention", "W": "sliding_window"}.get(letters)
        self.norm_after = alone is not None and config.stack[alone]["norm_after"]

    def forward(self, hidden_states, **kwargs):
        """``[b, t, d]`` in and out."""
        x = hidden_states
        if self.mixer_norm is not None:
            y = x if self.norm_after else self.mixer_norm(x)
            y = self._merge([mixer(y, **kwargs) for mixer in self.mixers])
            x = x + (self.mixer_norm(y) if self.norm_after else y)
        if self.mlp is None:
            return x
        if self.norm_after:
            return x + self.mlp_norm(self.mlp(x))
        return x + self.mlp(self.mlp_norm(x))

    def _merge(self, outputs):
        if len(outputs) == 1:
            return outputs[0]
        if self.branch_norms:
            outputs = [norm(y) for norm, y in zip(self.branch_norms, outputs, strict=True)]
        return torch.stack(outputs).mean(0)


class LmtrainCache(DynamicCache):
    """A cache that counts tokens itself: a stack may have no attention to ask."""

    seen = 0
    is_compileable = False  # generation would make masks of its own for a cache of fixed size

    def get_seq_length(self, layer_idx=0):  # noqa: ARG002
        """Tokens read so far."""
        return self.seen


class LmtrainPreTrainedModel(PreTrainedModel):
    """What both models share."""

    config_class = LmtrainConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LmtrainBlock"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    _is_stateful = True
    _keep_in_fp32_modules_strict = ["A_log", "dt_bias"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module):
        """Only what was not loaded: the functions of ``init`` leave loaded tensors alone."""
        super()._init_weights(module)
        if isinstance(module, LmtrainRMSNorm):
            (init.zeros_ if module.zero_centered else init.ones_)(module.weight)
        if isinstance(module, (LmtrainGatedDeltaNet, LmtrainSSD)):
            taps = module.conv_weight.shape[0]
            init.uniform_(module.conv_weight, -(taps**-0.5), taps**-0.5)
            init.copy_(module.A_log, torch.empty_like(module.A_log).uniform_(1, 16).log_())
            dt = torch.empty_like(module.dt_bias).uniform_(-6.9, -2.3).exp_()
            init.copy_(module.dt_bias, dt + torch.log(-torch.expm1(-dt)))
        if isinstance(module, LmtrainSSD):
            init.ones_(module.D)
            if module.norm_weight is not None:
                init.ones_(module.norm_weight)
            if module.conv_bias is not None:
                init.zeros_(module.conv_bias)


def packed(position_ids, attention_mask):
    """The number of each token's document, None where every row is one document.

    Raises:
        ValueError: positions start again inside a row that also has an attention mask.
    """
    if position_ids is None or position_ids.shape[-1] == 1:
        return None
    breaks = position_ids[:, 1:] - position_ids[:, :-1] != 1
    if attention_mask is not None:
        inside = attention_mask[:, -position_ids.shape[1] :].bool()
        if (breaks & inside[:, :-1] & inside[:, 1:]).any():
            raise ValueError(
                "position_ids start again inside a row that has an attention_mask: leave the mask "
                "out where documents are packed"
            )
        return None
    return F.pad(breaks.long().cumsum(-1), (1, 0)) if breaks.any() else None


def check(input_ids, inputs_embeds, attention_mask, position_ids, *, told):
    """See that a row can be read; ``told`` is whether it is said in some way to be packed.

    Raises:
        ValueError: neither or both of ids and embeddings; a mask or documents that recurrences
            would not see.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give either input_ids or inputs_embeds")
    plain = isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2  # noqa: PLR2004
    if attention_mask is not None and not plain:
        raise ValueError("attention_mask must be [batch, tokens]: recurrences need no other")
    if told and position_ids is None:
        raise ValueError("packed documents are told by position_ids: give them as well")


def bounds(seq_idx):
    """Where documents ``[b, t]`` begin and end in one row of them all, as FlashAttention is told.

    It needs no mask, so that nothing else would keep them apart.
    """
    ends = F.pad(seq_idx[:, 1:] != seq_idx[:, :-1], (0, 1), value=True).flatten().nonzero()
    found = F.pad(ends.flatten() + 1, (1, 0)).int()
    longest = int(found.diff().max())
    told = {"cu_seq_lens_q": found, "cu_seq_lens_k": found}
    return told | {"max_length_q": longest, "max_length_k": longest}


class LmtrainModel(LmtrainPreTrainedModel):
    """Embedding, blocks, norm."""

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        blocks, first = [], 0
        for block in config.blocks:
            blocks.append(LmtrainBlock(config, block, first))
            first += len(block["mixers"])
        self.layers = nn.ModuleList(blocks)
        self.norm = LmtrainRMSNorm(config.hidden_size, config.stack["norm"])
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        **kwargs,
    ):
        """Hidden states ``[b, t, d]``.

        Raises:
            ValueError: neither or both of ids and embeddings; documents packed in a way that would
                mix them; weights of attention are asked for; a cache without the model's layers.
        """
        told = kwargs.pop("seq_idx", None) is not None or kwargs.get("cu_seq_lens_q") is not None
        check(input_ids, inputs_embeds, attention_mask, position_ids, told=told)
        if kwargs.pop("output_attentions", self.config.output_attentions):
            raise ValueError("output_attentions=True asks for what recurrences lack: leave it out")
        whole = kwargs.pop("output_hidden_states", self.config.output_hidden_states)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        seq_idx = packed(position_ids, attention_mask)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if seq_idx is not None or (self.gradient_checkpointing and self.training):
            use_cache = False
        if seq_idx is not None and past_key_values is not None:
            raise ValueError("packed documents cannot go on from a cache: leave it out")
        if use_cache and past_key_values is None:
            past_key_values = LmtrainCache(config=self.config)
        held, kinds = past_key_values, self.config.layer_types
        if held is not None and len(held.layers) != len(kinds):
            raise ValueError(
                f"past_key_values has {len(held.layers)} layers, the model {len(kinds)}: make it "
                "by DynamicCache(config=model.config), or leave it out"
            )
        if position_ids is None:
            # Where nothing attends, positions decide nothing, and most caches do not count tokens.
            attended = held if ATTENTION.keys() & kinds else None
            seen = 0 if attended is None else attended.get_seq_length()
            position_ids = (torch.arange(x.shape[1], device=x.device) + seen)[None]
        masks = self._masks(x, attention_mask, position_ids, past_key_values)
        if seq_idx is not None:
            seq_idx = seq_idx.expand(len(x), -1)
            unmasked = any(masks[kind] is None for kind in masks.keys() & ATTENTION)
            if unmasked and kwargs.get("cu_seq_lens_q") is None:
                kwargs |= bounds(seq_idx)
        masks["documents"] = seq_idx
        position_ids = position_ids.expand(len(x), -1)
        states = ()
        for block in self.layers:
            states += (x,) if whole else ()
            x = block(
                x,
                masks=masks,
                position_ids=position_ids,
                past_key_values=past_key_values,
                **kwargs,
            )
        if isinstance(past_key_values, LmtrainCache):
            past_key_values.seen += x.shape[1]
        x = self.norm(x)
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=past_key_values,
            hidden_states=(*states, x) if whole else None,
        )

    def _masks(self, x, attention_mask, position_ids, cache):
        """A mask for each kind of layer, sized by a layer of the cache of that same kind."""
        masks, kinds = {}, self.config.layer_types
        for kind in set(kinds):
            one = None if cache is None else Cache(layers=[cache.layers[kinds.index(kind)]])
            masks[kind] = MASKS[kind](
                config=self.config,
                inputs_embeds=x,
                attention_mask=attention_mask,
                past_key_values=one,
                position_ids=position_ids,
            )
        return masks


class LmtrainForCausalLM(LmtrainPreTrainedModel, GenerationMixin):
    """The model and its output head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.model = LmtrainModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        made = super()._prepare_cache_for_generation(
            generation_config, model_kwargs, *args, **kwargs
        )
        cache = model_kwargs.get("past_key_values")
        if isinstance(cache, StaticCache):
            raise ValueError(
                "cache_implementation=static makes masks that recurrences cannot read: leave it out"
            )
        if type(cache) is DynamicCache:
            model_kwargs["past_key_values"] = LmtrainCache(config=self.config)
        return made

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        **kwargs,
    ):
        """Logits ``[b, t, vocab]``, and the loss where there are labels."""
        loss_kwargs = {name: kwargs.pop(name) for name in ("num_items_in_batch",) if name in kwargs}
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits, loss = self.lm_head(out.last_hidden_state[:, keep]), None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.vocab_size, **loss_kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
        )


LmtrainModel.register_for_auto_class("AutoModel")
LmtrainForCausalLM.register_for_auto_class("AutoModelForCausalLM")
