"""Who computes an operation: our kernels, other libraries, plain torch.

A contender is a function of a case and its layout that gives a function of the case's inputs; what
does not depend on the inputs' values is done before. Documents of one length reach others as a
batch, their fastest form; else they come in one row, with the borders that each library wants.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from benchmarks.case import EPS, Case
from benchmarks.pointwise import (
    AddNorm,
    DeltaGates,
    Discretize,
    GateThenNorm,
    L2Norm,
    NormThenGate,
    RmsNorm,
    Rotary,
    ShortConv,
    SwiGlu,
)
from benchmarks.recurrences import GatedDelta, Ssd
from lmtrain.ops.backend import operations
from lmtrain.ops.config import Backend

if TYPE_CHECKING:
    from lmtrain.layout import SequenceLayout

Run: TypeAlias = "Callable[..., Tensor]"
Contender: TypeAlias = "Callable[[Any, SequenceLayout], Run]"

OURS = "lmtrain"
MAMBA_CHUNK = 256
"""What mamba_ssm's own Mamba-2 takes."""


def contenders(case: Case) -> dict[str, Contender]:
    """By name, ours first."""
    return _CONTENDERS[type(case)]


def delta_of(backend: Backend) -> Contender:
    """The gated delta rule of one of our backends."""

    def build(_: GatedDelta, layout: SequenceLayout) -> Run:
        rule = operations(backend).gated_delta
        return lambda *inputs: rule.scan(inputs, layout)[0]

    return build


def _fla_delta(case: GatedDelta, layout: SequenceLayout) -> Run:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    return _rows(chunk_gated_delta_rule, case, layout)


def _flash_qla_delta(case: GatedDelta, layout: SequenceLayout) -> Run:
    from flash_qla import chunk_gated_delta_rule

    return _rows(chunk_gated_delta_rule, case, layout)


def _rows(run: Callable[..., Any], case: Case, layout: SequenceLayout) -> Run:
    """``run`` on ``[batch, tokens, heads, …]``, as fla defined it."""
    shape, borders = _batch(case, layout)

    def call(*inputs: Tensor) -> Tensor:
        rows = (x.unflatten(0, shape) for x in inputs)
        return run(*rows, scale=1.0, cu_seqlens=borders)[0].flatten(0, 1)

    return call


def _batch(case: Case, layout: SequenceLayout) -> tuple[tuple[int, int], Tensor | None]:
    """Documents and their length; else one row, and where its documents begin."""
    if layout.uniform:
        return layout.uniform, None
    return (1, case.tokens), layout.offsets.long()


def ssd_of(backend: Backend) -> Contender:
    """The scalar-decay recurrence of one of our backends, with what a mixer does before it."""

    def build(_: Ssd, layout: SequenceLayout) -> Run:
        rule = operations(backend).ssd

        def call(C: Tensor, B: Tensor, u: Tensor, dt: Tensor, A: Tensor) -> Tensor:
            return rule.scan((C, B, (u * dt[..., None]).to(u.dtype), dt * A), layout)[0]

        return call

    return build


def _fla_ssd(case: Ssd, layout: SequenceLayout) -> Run:
    from fla.ops.simple_gla import chunk_simple_gla

    run, shared = _rows(chunk_simple_gla, case, layout), case.heads // case.groups

    def call(C: Tensor, B: Tensor, u: Tensor, dt: Tensor, A: Tensor) -> Tensor:
        q, k = (x.repeat_interleave(shared, 1) for x in (C, B))
        return run(q, k, (u * dt[..., None]).to(u.dtype), dt * A)

    return call


def _mamba_ssd(case: Ssd, layout: SequenceLayout) -> Run:
    run = _mamba_triton("ssd_combined").mamba_chunk_scan_combined
    shape, borders = _batch(case, layout)
    document = None if borders is None else layout.document.int()[None]

    def call(C: Tensor, B: Tensor, u: Tensor, dt: Tensor, A: Tensor) -> Tensor:
        C, B, u, dt = (x.unflatten(0, shape) for x in (C, B, u, dt))
        return run(u, dt, A, B, C, MAMBA_CHUNK, seq_idx=document).flatten(0, 1)

    return call


def _mamba_triton(name: str) -> Any:
    """A module of mamba_ssm's Triton kernels.

    Importing the package itself needs its CUDA extensions, so a bare package stands in for it.
    """
    from importlib import import_module

    if "mamba_ssm" not in sys.modules:
        found = PathFinder.find_spec("mamba_ssm")
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError("No module named 'mamba_ssm'")
        bare = ModuleType("mamba_ssm")
        bare.__path__ = list(found.submodule_search_locations)
        sys.modules["mamba_ssm"] = bare
    return import_module(f"mamba_ssm.ops.triton.{name}")


def conv_of(backend: Backend) -> Contender:
    """The short convolution of one of our backends."""

    def build(case: ShortConv, layout: SequenceLayout) -> Run:
        run = operations(backend).short_conv
        return lambda x, weight, bias: run(x, weight, bias, [case.channels], layout=layout)[0]

    return build


def _fla_conv(case: ShortConv, layout: SequenceLayout) -> Run:
    from fla.modules.causal_conv1d import causal_conv1d

    shape, borders = _batch(case, layout)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight, bias = weight.T.contiguous().to(x.dtype), bias.to(x.dtype)
        rows = x.unflatten(0, shape)
        return causal_conv1d(rows, weight, bias, activation="silu", cu_seqlens=borders)[0].flatten(
            0, 1
        )

    return call


def _cuda_conv(case: ShortConv, layout: SequenceLayout) -> Run:
    from causal_conv1d import causal_conv1d_fn

    shape, borders = _batch(case, layout)
    document = None if borders is None else layout.document.int()[None]

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight, bias = weight.T.contiguous().to(x.dtype), bias.to(x.dtype)
        rows = x.unflatten(0, shape).transpose(1, 2)
        y = causal_conv1d_fn(rows, weight, bias, seq_idx=document, activation="silu")
        return y.transpose(1, 2).flatten(0, 1)

    return call


def norm_of(backend: Backend) -> Contender:
    """A gated norm of one of our backends."""

    def build(case: NormThenGate, _: SequenceLayout) -> Run:
        run = getattr(operations(backend), case.operation)
        return lambda *inputs: run(*inputs, EPS)

    return build


def _fla_norm(_: NormThenGate, __: SequenceLayout) -> Run:
    from fla.modules.norm.fused_norm_gate import rms_norm_gated

    return lambda x, gate, weight: rms_norm_gated(
        x, gate, weight, None, activation="swish", eps=EPS
    )


def l2_norm_of(backend: Backend) -> Contender:
    """The norm of queries and keys of one of our backends."""

    def build(_: L2Norm, __: SequenceLayout) -> Run:
        return lambda x: operations(backend).l2_norm(x)

    return build


def _fla_l2_norm(_: L2Norm, __: SequenceLayout) -> Run:
    from fla.modules.norm.l2norm import l2norm

    return lambda x: l2norm(x, EPS)


def _compiled_l2_norm(case: L2Norm, layout: SequenceLayout) -> Run:
    return torch.compile(l2_norm_of(Backend.torch)(case, layout), dynamic=False)


def delta_gates_of(backend: Backend) -> Contender:
    """Decays and betas of one of our backends."""

    def build(_: DeltaGates, __: SequenceLayout) -> Run:
        run = operations(backend).delta_gates
        return lambda *inputs: torch.add(*run(*inputs))

    return build


def _fla_delta_gates(_: DeltaGates, __: SequenceLayout) -> Run:
    from fla.ops.gated_delta_rule.gate import fused_gdn_gate

    def call(dt: Tensor, beta: Tensor, bias: Tensor, A_log: Tensor) -> Tensor:
        return fused_gdn_gate(dt, A_log, bias) + beta.float().sigmoid()

    return call


def _compiled_delta_gates(case: DeltaGates, layout: SequenceLayout) -> Run:
    return torch.compile(delta_gates_of(Backend.torch)(case, layout), dynamic=False)


def discretize_of(backend: Backend) -> Contender:
    """Inputs times steps of one of our backends."""

    def build(_: Discretize, __: SequenceLayout) -> Run:
        run = operations(backend).discretize
        return lambda u, dt, bias: run(u, dt, bias, torch.zeros_like(bias))[0]

    return build


def _compiled_discretize(case: Discretize, layout: SequenceLayout) -> Run:
    return torch.compile(discretize_of(Backend.torch)(case, layout), dynamic=False)


def _mamba_norm(case: GateThenNorm, _: SequenceLayout) -> Run:
    run = _mamba_triton("layernorm_gated").rmsnorm_fn

    def call(x: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
        y = run(
            *(x.flatten(1), weight, None),
            z=gate.flatten(1),
            eps=EPS,
            group_size=case.width,
            norm_before_gate=False,
        )
        return y.view_as(x)

    return call


def _compiled_norm(case: NormThenGate, layout: SequenceLayout) -> Run:
    return torch.compile(norm_of(Backend.torch)(case, layout), dynamic=False)


def rms_norm_of(backend: Backend) -> Contender:
    """The norm of the stream of one of our backends."""

    def build(_: RmsNorm, __: SequenceLayout) -> Run:
        return lambda x, weight: operations(backend).rms_norm(x, weight, EPS)

    return build


def _fla_rms_norm(_: RmsNorm, __: SequenceLayout) -> Run:
    from fla.modules.norm.layernorm import rms_norm

    return lambda x, weight: rms_norm(x, weight, None, eps=EPS)


def _compiled_rms_norm(case: RmsNorm, layout: SequenceLayout) -> Run:
    return torch.compile(rms_norm_of(Backend.torch)(case, layout), dynamic=False)


def add_norm_of(backend: Backend) -> Contender:
    """The stream and its norm of one of our backends; the sum of both, as of every contender."""

    def build(_: AddNorm, __: SequenceLayout) -> Run:
        both = operations(backend).add_norm
        return lambda x, added, weight: torch.add(*both(x, added, weight, EPS))

    return build


def _fla_add_norm(_: AddNorm, __: SequenceLayout) -> Run:
    from fla.modules.norm.layernorm import rms_norm

    return lambda x, added, weight: torch.add(
        *rms_norm(x, weight, None, residual=added, eps=EPS, prenorm=True)
    )


def _compiled_add_norm(case: AddNorm, layout: SequenceLayout) -> Run:
    return torch.compile(add_norm_of(Backend.torch)(case, layout), dynamic=False)


def swiglu_of(backend: Backend) -> Contender:
    """SwiGLU of one of our backends."""

    def build(_: SwiGlu, __: SequenceLayout) -> Run:
        return lambda gate_up: operations(backend).swiglu(gate_up)

    return build


def _fla_swiglu(_: SwiGlu, __: SequenceLayout) -> Run:
    from fla.modules.activations import swiglu

    return lambda gate_up: swiglu(*gate_up.chunk(2, -1))


def _compiled_swiglu(case: SwiGlu, layout: SequenceLayout) -> Run:
    return torch.compile(swiglu_of(Backend.torch)(case, layout), dynamic=False)


def rotary_of(backend: Backend) -> Contender:
    """Rotary positions of one of our backends."""

    def build(case: Rotary, layout: SequenceLayout) -> Run:
        cos, sin = case.tables(layout)
        return lambda x: operations(backend).rotate(x, cos, sin)

    return build


def _fla_rotary(case: Rotary, layout: SequenceLayout) -> Run:
    from fla.modules.rotary import rotary_embedding

    cos, sin = (table[:, 0].bfloat16() for table in case.tables(layout))
    return lambda x: rotary_embedding(x[None], cos, sin)[0]


def _compiled_rotary(case: Rotary, layout: SequenceLayout) -> Run:
    return torch.compile(rotary_of(Backend.torch)(case, layout), dynamic=False)


_TORCH = Backend.torch
_CONTENDERS: dict[type[Case], dict[str, Contender]] = {
    GatedDelta: {
        OURS: delta_of(Backend.triton),
        "flash_qla": _flash_qla_delta,
        "fla": _fla_delta,
        "torch": delta_of(_TORCH),
    },
    Ssd: {
        OURS: ssd_of(Backend.triton),
        "mamba_ssm": _mamba_ssd,
        "fla": _fla_ssd,
        "torch": ssd_of(_TORCH),
    },
    ShortConv: {
        OURS: conv_of(Backend.triton),
        "causal_conv1d": _cuda_conv,
        "fla": _fla_conv,
        "torch": conv_of(_TORCH),
    },
    DeltaGates: {
        OURS: delta_gates_of(Backend.triton),
        "fla": _fla_delta_gates,
        "torch": delta_gates_of(_TORCH),
        "torch.compile": _compiled_delta_gates,
    },
    Discretize: {
        OURS: discretize_of(Backend.triton),
        "torch": discretize_of(_TORCH),
        "torch.compile": _compiled_discretize,
    },
    NormThenGate: {
        OURS: norm_of(Backend.triton),
        "fla": _fla_norm,
        "torch": norm_of(_TORCH),
        "torch.compile": _compiled_norm,
    },
    GateThenNorm: {
        OURS: norm_of(Backend.triton),
        "mamba_ssm": _mamba_norm,
        "torch": norm_of(_TORCH),
        "torch.compile": _compiled_norm,
    },
    L2Norm: {
        OURS: l2_norm_of(Backend.triton),
        "fla": _fla_l2_norm,
        "torch": l2_norm_of(_TORCH),
        "torch.compile": _compiled_l2_norm,
    },
    RmsNorm: {
        OURS: rms_norm_of(Backend.triton),
        "fla": _fla_rms_norm,
        "torch": rms_norm_of(_TORCH),
        "torch.compile": _compiled_rms_norm,
    },
    AddNorm: {
        OURS: add_norm_of(Backend.triton),
        "fla": _fla_add_norm,
        "torch": add_norm_of(_TORCH),
        "torch.compile": _compiled_add_norm,
    },
    SwiGlu: {
        OURS: swiglu_of(Backend.triton),
        "fla": _fla_swiglu,
        "torch": swiglu_of(_TORCH),
        "torch.compile": _compiled_swiglu,
    },
    Rotary: {
        OURS: rotary_of(Backend.triton),
        "fla": _fla_rotary,
        "torch": rotary_of(_TORCH),
        "torch.compile": _compiled_rotary,
    },
}
