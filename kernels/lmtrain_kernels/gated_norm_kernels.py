"""The kernels of the norm and its gates: programs walk over runs of rows."""

# What a kernel holds is known to Triton's compiler only.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from lmtrain_kernels.pointwise import load, sigmoid, store


@triton.jit(do_not_specialize=["tokens", "run"])
def forward(
    x_pointer,
    gate_pointer,
    weight_pointer,
    u_pointer,
    scale_pointer,
    sum_pointer,
    out_pointer,
    inverse_pointer,
    tokens,
    eps,
    run,
    X_TOKEN: tl.constexpr,
    X_HEAD: tl.constexpr,
    GATE_TOKEN: tl.constexpr,
    GATE_HEAD: tl.constexpr,
    U_TOKEN: tl.constexpr,
    U_HEAD: tl.constexpr,
    PART: tl.constexpr,
    WEIGHT_A_HEAD: tl.constexpr,
    NORM_FIRST: tl.constexpr,
    HEADS: tl.constexpr,
    ALIKE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``run`` tiles of ``ROWS`` rows, each whole; of one head unless all are alike.

    ``u`` is added, scaled if there is a scale; the sum is written if there is room for it.
    """
    lane, first = _begin(run, ROWS, HEADS, ALIKE)
    column = tl.arange(0, BLOCK)[None]
    inside = column < WIDTH
    weight = load(weight_pointer + lane * WIDTH * WEIGHT_A_HEAD + column, inside)
    if scale_pointer is not None:
        scale = load(scale_pointer + (lane * WIDTH + column) // PART, inside)
    for start in range(first, first + run * ROWS, ROWS):
        token, head, exists = _rows(start, lane, tokens, ROWS, HEADS, ALIKE)
        kept = exists & inside
        x = load(_at(x_pointer, token, head, X_TOKEN, X_HEAD, HEADS) + column, kept)
        row = token * HEADS + head
        if u_pointer is not None:
            u = load(_at(u_pointer, token, head, U_TOKEN, U_HEAD, HEADS) + column, kept)
            x += u if scale_pointer is None else scale * u
        if sum_pointer is not None:
            x = x.to(sum_pointer.dtype.element_ty).to(tl.float32)  # the norm is of what is kept
            store(sum_pointer + row * WIDTH + column, x, kept)
        silu = 1.0
        if gate_pointer is not None:
            gate = load(_at(gate_pointer, token, head, GATE_TOKEN, GATE_HEAD, HEADS) + column, kept)
            silu = gate * sigmoid(gate)
        if not NORM_FIRST:
            x *= silu
        inverse = tl.math.rsqrt(tl.sum(x * x, 1, keep_dims=True) / WIDTH + eps)
        out = x * inverse * weight
        if NORM_FIRST:
            out *= silu
        store(out_pointer + row * WIDTH + column, out, kept)
        store(inverse_pointer + row, inverse, exists)


@triton.jit(do_not_specialize=["tokens", "run"])
def backward(
    d_out_pointer,
    x_pointer,
    gate_pointer,
    weight_pointer,
    u_pointer,
    scale_pointer,
    inverse_pointer,
    d_sum_pointer,
    dx_pointer,
    d_gate_pointer,
    du_pointer,
    sums_pointer,
    scale_sums_pointer,
    tokens,
    run,
    D_TOKEN: tl.constexpr,
    D_HEAD: tl.constexpr,
    X_TOKEN: tl.constexpr,
    X_HEAD: tl.constexpr,
    GATE_TOKEN: tl.constexpr,
    GATE_HEAD: tl.constexpr,
    U_TOKEN: tl.constexpr,
    U_HEAD: tl.constexpr,
    PART: tl.constexpr,
    WEIGHT_A_HEAD: tl.constexpr,
    NORM_FIRST: tl.constexpr,
    HEADS: tl.constexpr,
    ALIKE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``run`` tiles of ``ROWS`` rows, each whole; of one head unless all are alike.

    A row wider than ``BLOCK`` is read in parts: for the mean over it, and again, from the cache,
    for the gradients. So registers hold one part, beside the sums for the weights. What else is
    asked of ``x``, ``d_sum``, is added to its gradient.
    """
    PARTS: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    SKIP: tl.constexpr = u_pointer is not None
    GATED: tl.constexpr = gate_pointer is not None
    KEEP: tl.constexpr = "evict_last" if PARTS > 1 else ""
    lane, first = _begin(run, ROWS, HEADS, ALIKE)
    column = tl.arange(0, BLOCK)[None]
    weight_pointer += lane * WIDTH * WEIGHT_A_HEAD
    weight, scale = _weights(weight_pointer, scale_pointer, lane, column, WIDTH, PART, "")
    d_weights, d_scales = (), ()
    for part in tl.static_range(PARTS):  # noqa: B007 (a discarded name would be a variable too)
        d_weights = d_weights + (tl.zeros([ROWS, BLOCK], tl.float32),)
        d_scales = d_scales + (tl.zeros([ROWS, BLOCK], tl.float32),)
    for start in range(first, first + run * ROWS, ROWS):
        token, head, exists = _rows(start, lane, tokens, ROWS, HEADS, ALIKE)
        row = token * HEADS + head
        inverse = load(inverse_pointer + row, exists)
        d_out_row = _at(d_out_pointer, token, head, D_TOKEN, D_HEAD, HEADS) + column
        x_row = _at(x_pointer, token, head, X_TOKEN, X_HEAD, HEADS) + column
        gate_row, u_row = x_row, x_row
        if GATED:
            gate_row = _at(gate_pointer, token, head, GATE_TOKEN, GATE_HEAD, HEADS) + column
        if SKIP:
            u_row = _at(u_pointer, token, head, U_TOKEN, U_HEAD, HEADS) + column

        products = tl.zeros([ROWS, BLOCK], tl.float32)
        for part in tl.static_range(PARTS):
            kept = exists & (part * BLOCK + column < WIDTH)
            if PARTS > 1:
                weight, scale = _weights(
                    weight_pointer, scale_pointer, lane, part * BLOCK + column, WIDTH, PART, KEEP
                )
            d_out, x, gate, u = _inputs(
                d_out_row, x_row, gate_row, u_row, scale, part * BLOCK, kept, SKIP, GATED, KEEP
            )
            normed, d_normed, opened = _terms(d_out, x, gate, weight, inverse, NORM_FIRST, GATED)
            products += normed * d_normed
        mean = tl.sum(products, 1, keep_dims=True) / WIDTH

        more_weights, more_scales = (), ()
        for part in tl.static_range(PARTS):
            kept = exists & (part * BLOCK + column < WIDTH)
            if PARTS > 1:  # another policy, or the compiler would keep the row in registers
                weight, scale = _weights(
                    weight_pointer, scale_pointer, lane, part * BLOCK + column, WIDTH, PART, ""
                )
                d_out, x, gate, u = _inputs(
                    d_out_row, x_row, gate_row, u_row, scale, part * BLOCK, kept, SKIP, GATED,
                    "evict_first",
                )  # fmt: skip
            normed, d_normed, opened = _terms(d_out, x, gate, weight, inverse, NORM_FIRST, GATED)
            dx = (d_normed - normed * mean) * inverse
            target = row * WIDTH + part * BLOCK + column
            d_weight = d_weights[part] + d_out * normed
            if GATED:
                d_gate, dx, d_weight = _through_gate(
                    dx, d_weights[part], d_out, x, gate, weight, normed, opened, NORM_FIRST
                )
                store(d_gate_pointer + target, d_gate, kept)
            dx = _join(dx, d_sum_pointer, target, kept)
            store(dx_pointer + target, dx, kept)
            more_weights = more_weights + (d_weight,)
            more_scales = more_scales + (d_scales[part] + dx * u,)
            if SKIP:
                store(du_pointer + target, dx * scale, kept)
        d_weights, d_scales = more_weights, more_scales

    sums = tl.program_id(0).to(tl.int64) * WIDTH + column
    for part in tl.static_range(PARTS):
        inside = part * BLOCK + column < WIDTH
        d_weight = tl.sum(d_weights[part], 0, keep_dims=True)
        tl.store(sums_pointer + sums + part * BLOCK, d_weight, mask=inside)
        if SKIP:
            d_scale = tl.sum(d_scales[part], 0, keep_dims=True)
            tl.store(scale_sums_pointer + sums + part * BLOCK, d_scale, mask=inside)


@triton.jit
def _join(x, pointer, at, kept):
    """``x``, and what lies there if there is a pointer."""
    if pointer is not None:
        x += load(pointer + at, kept)
    return x


@triton.jit
def _weights(
    weight_pointer, scale_pointer, lane, column,
    WIDTH: tl.constexpr, PART: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """Of some columns: the weight, and the scale of the skip or something in its place."""
    weight = load(weight_pointer + column, column < WIDTH, POLICY)
    scale = weight
    if scale_pointer is not None:
        scale = load(scale_pointer + (lane * WIDTH + column) // PART, column < WIDTH, POLICY)
    return weight, scale


@triton.jit
def _inputs(
    d_out_row, x_row, gate_row, u_row, scale, column, kept,
    SKIP: tl.constexpr, GATED: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """Of some columns: gradient, what is normed or gated, gate and ``u``, or something."""
    d_out = load(d_out_row + column, kept, POLICY)
    x = load(x_row + column, kept, POLICY)
    gate, u = x, x
    if GATED:
        gate = load(gate_row + column, kept, POLICY)
    if SKIP:
        u = load(u_row + column, kept, POLICY)
        x += scale * u
    return d_out, x, gate, u


@triton.jit
def _terms(
    d_out, x, gate, weight, inverse, NORM_FIRST: tl.constexpr, GATED: tl.constexpr
):  # fmt: skip
    """The normed row, its gradient, and the sigmoid of the gate or something."""
    normed, d_normed, opened = x * inverse, d_out * weight, x
    if GATED:
        opened = sigmoid(gate)
        if NORM_FIRST:
            d_normed *= gate * opened
        else:
            normed *= gate * opened
    return normed, d_normed, opened


@triton.jit
def _through_gate(
    dx, d_weight, d_out, x, gate, weight, normed, opened, NORM_FIRST: tl.constexpr
):  # fmt: skip
    """The gradient of the gate, that of the row with it, and more of that of the weight."""
    silu = gate * opened
    if NORM_FIRST:
        d_weight += d_out * normed * silu
        d_gate = d_out * weight * normed
    else:
        d_weight += d_out * normed
        d_gate = dx * x
        dx *= silu
    return d_gate * (opened + silu * (1 - opened)), dx, d_weight


@triton.jit
def _begin(run, ROWS: tl.constexpr, HEADS: tl.constexpr, ALIKE: tl.constexpr):
    """The head of this program, if it has one, and its first row."""
    LANES: tl.constexpr = 1 if ALIKE else HEADS
    return tl.program_id(0) % LANES, tl.program_id(0) // LANES * run * ROWS


@triton.jit
def _at(pointer, token, head, TOKEN: tl.constexpr, HEAD: tl.constexpr, HEADS: tl.constexpr):
    """Rows of a tile; 64 bits for heads only if they lie so far apart, since they cost registers.

    So lie those of a million tokens whose memory has heads first.
    """
    if (HEADS - 1) * HEAD >= 2**31:
        return pointer + token * TOKEN + head.to(tl.int64) * HEAD
    return pointer + token * TOKEN + head * HEAD


@triton.jit
def _rows(start, lane, tokens, ROWS: tl.constexpr, HEADS: tl.constexpr, ALIKE: tl.constexpr):
    """Token and head of each row of a tile, and whether it exists; ``[ROWS, 1]``."""
    row = start + tl.arange(0, ROWS)[:, None]
    if ALIKE:
        return (row // HEADS).to(tl.int64), row % HEADS, row < tokens * HEADS
    return row.to(tl.int64), lane + tl.zeros_like(row), row < tokens
