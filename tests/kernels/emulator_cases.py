"""Small kernels for the emulator: products of all kinds, and faults that it must find."""

# pyright: reportCallIssue=false
from __future__ import annotations

import json
import re
from functools import partial
from itertools import product as combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from emulator.__main__ import main
from emulator.counters import Profile, wavefronts
from emulator.launch import emulated, launch
from emulator.machine import AT_ONCE
from emulator.memory import EmulationError

if TYPE_CHECKING:
    from collections.abc import Callable

PRECISIONS = {
    "bf16": (torch.bfloat16, "tf32"),
    "f16": (torch.float16, "tf32"),
    "tf32": (torch.float32, "tf32"),
    "ieee": (torch.float32, "ieee"),
}
SHAPES = [(64, 64, 64), (64, 32, 16), (16, 16, 64), (64, 128, 32), (64, 16, 64), (128, 64, 32)]
FEW = {("bf16", 64, 64, 64), ("tf32", 64, 128, 32), ("f16", 16, 16, 64), ("ieee", 64, 32, 16)}
"""Of the products, those that every test run sees, in two orders."""


@triton.jit
def _product(  # noqa: PLR0917
    a, b, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    TURNED_A: tl.constexpr, TURNED_B: tl.constexpr, PRECISION: tl.constexpr, DOUBLED: tl.constexpr,
):  # fmt: skip
    """``DOUBLED`` changes A in registers, so that on Hopper it stays there."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    if TURNED_A:
        A = tl.trans(tl.load(a + k[:, None] * M + m[None, :]))
    else:
        A = tl.load(a + m[:, None] * K + k[None, :])
    if TURNED_B:
        B = tl.trans(tl.load(b + n[:, None] * K + k[None, :]))
    else:
        B = tl.load(b + k[:, None] * N + n[None, :])
    if DOUBLED:
        A = A + A
    C = tl.dot(A, B, input_precision=PRECISION)
    tl.store(c + m[:, None] * N + n[None, :], C)


@triton.jit
def _long_product(a, b, c, K, M: tl.constexpr, N: tl.constexpr, STEP: tl.constexpr):
    """Walks over ``K``: its loads are copies on their way while the step before is computed."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, STEP)
    C = tl.zeros([M, N], tl.float32)
    for start in tl.range(0, K, STEP, num_stages=3):
        A = tl.load(a + m[:, None] * K + start + k[None, :])
        B = tl.load(b + (start + k[:, None]) * N + n[None, :])
        C = tl.dot(A, B, C)
    tl.store(c + m[:, None] * N + n[None, :], C)


@triton.jit
def _turn(x, out, SIZE: tl.constexpr):
    i, j = tl.arange(0, SIZE), tl.arange(0, SIZE)
    tl.store(out + j[None, :] * SIZE + i[:, None], tl.load(x + i[:, None] * SIZE + j[None, :]))


@triton.jit
def _double(x, out, n, SIZE: tl.constexpr):
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out + i, 2 * tl.load(x + i, mask=i < n), mask=i < n)


@triton.jit
def _all_write(out, SHARE: tl.constexpr):
    tl.store(out, tl.program_id(0) // SHARE)


def products(card: str, which: str) -> dict[str, Callable[[], None]]:
    """``all`` or the ``few`` ones."""
    wanted = combinations(PRECISIONS, SHAPES, combinations((False, True), repeat=3))
    return {
        f"{precision} {shape} {options}": partial(
            check_product, int(card), precision, shape, options
        )
        for precision, shape, options in wanted
        if which == "all"
        or ((precision, *shape) in FEW and options in {(False, True, False), (True, False, True)})
    }


def check_product(
    card: int, precision: str, shape: tuple[int, int, int], options: tuple[bool, ...]
) -> None:
    """Against torch in fp64; on the tensor cores that it should use."""
    (M, N, K), (dtype, name), (ta, tb, doubled) = shape, PRECISIONS[precision], options
    a, b = torch.randn(M, K).to(dtype), torch.randn(K, N).to(dtype)
    stored = [x.t().contiguous() if turn else x for x, turn in ((a, ta), (b, tb))]
    c, profile = torch.full((M, N), torch.nan), Profile()
    with emulated(card, profile):
        _product[(1,)](*stored, c, M, N, K, ta, tb, name, doubled, num_warps=4)
    expected = (1 + doubled) * a.double() @ b.double()
    limit = 1e-3 if name == "tf32" and dtype == torch.float32 else 1e-6
    assert (c - expected).norm() < limit * expected.norm()
    units = {"mma", "wgmma"} if precision != "ieee" else set[str]()
    used = {unit: profile.launches[0].total(unit) for unit in ("mma", "wgmma")}
    assert (sum(used.values()) >= M * N * K) if units else not any(used.values())
    assert bool(used["wgmma"]) == (bool(units) and card == 90 and M >= 64)


class Compiled:
    """A kernel that was launched once and is right; again with another PTX or other arguments."""

    def __init__(self, card: int, kernel: Any, *values: Any, **constants: Any) -> None:
        self.values = dict(zip(kernel.arg_names, values, strict=False))
        self.card = card
        with emulated(card):
            self.kernel = kernel[(1,)](*values, **constants)
        self.ptx: str = self.kernel.asm["ptx"]

    def __call__(self, ptx: str, grid: int = 1, **changed: Any) -> None:
        """One launch."""
        launch(self.kernel, (grid,), self.values | changed, ptx=ptx)


def without(ptx: str, line: str, count: int = 0) -> str:
    """Remove ``count`` lines that match, or all, of which there must be some."""
    edited, found = re.subn(rf"^\s*{line}.*\n", "", ptx, count=count, flags=re.MULTILINE)
    assert found
    return edited


def before(ptx: str, line: str, inserted: str) -> str:
    """Insert PTX before the first line that matches; ``@%p1`` is the first thread alone."""
    text = f"mov.u32 %r1, %tid.x;\nsetp.eq.b32 %p1, %r1, 0;\n{inserted}\n"
    edited, found = re.subn(rf"^(\s*{line})", rf"{text}\1", ptx, count=1, flags=re.MULTILINE)
    assert found
    if ".reg .pred" not in ptx:
        edited = edited.replace("\n{\n", "\n{\n.reg .pred %p<2>;\n", 1)
    return edited


def product_of(card: int) -> Compiled:
    a, b, c = torch.randn(64, 64).bfloat16(), torch.randn(64, 64).bfloat16(), torch.zeros(64, 64)
    return Compiled(
        card, _product, a, b, c, 64, 64, 64, False, False, "tf32", False, num_warps=4
    )  # fmt: skip


def long_product_of(card: int) -> Compiled:
    a, b, c = torch.randn(64, 256).bfloat16(), torch.randn(256, 64).bfloat16(), torch.zeros(64, 64)
    compiled = Compiled(card, _long_product, a, b, c, 256, 64, 64, 32, num_warps=4)
    assert (c - a.double() @ b.double()).norm() < 1e-5 * c.norm()
    return compiled


def turn_of(card: int) -> Compiled:
    x, out = torch.randn(64, 64), torch.zeros(64, 64)
    compiled = Compiled(card, _turn, x, out, 64, num_warps=4)
    assert torch.equal(out, x.mT)
    return compiled


def faults(card: str) -> dict[str, Callable[[], None]]:
    """Each is made, and must be found."""
    checks = [
        *(missing_barrier, barrier_for_some, missing_wait, missing_barriers_of_copies),
        *(out_of_bounds, misaligned, two_programs, programs_one_after_another),
        *(unknown_instruction, unknown_form, unknown_card, counts, conflicts, counted_cases),
    ]
    if card == "90":
        checks += [overwritten_operand, operand_overwritten_later]
    return {check.__name__: partial(check, int(card)) for check in checks}


def missing_barrier(card: int) -> None:
    turn = turn_of(card)
    with pytest.raises(EmulationError, match="_turn: shared memory: .* no barrier between"):
        turn(without(turn.ptx, "bar.sync"))


def barrier_for_some(card: int) -> None:
    turn = turn_of(card)
    with pytest.raises(EmulationError, match="not all threads"):
        turn(before(turn.ptx, "bar.sync", "@%p1 bar.sync 0;"))


def missing_wait(card: int) -> None:
    """What was not waited for did not arrive: nan."""
    product = long_product_of(card)
    product(without(product.ptx, "cp.async.wait_group"))
    assert product.values["c"].isnan().any()


def missing_barriers_of_copies(card: int) -> None:
    product = long_product_of(card)
    with pytest.raises(EmulationError, match="shared memory: .* no barrier between"):
        product(without(product.ptx, "bar.sync"))


def _double_of(card: int) -> Compiled:
    return Compiled(card, _double, torch.randn(256), torch.zeros(256), 256, 256)


def out_of_bounds(card: int) -> None:
    double = _double_of(card)
    with pytest.raises(EmulationError, match="_double: x: byte 1024 is not inside of its 1024"):
        double(double.ptx, n=257, grid=2)


def misaligned(card: int) -> None:
    double = _double_of(card)
    with pytest.raises(EmulationError, match="x: an address is no multiple of"):
        double(double.ptx, x=torch.randn(257)[1:])


def two_programs(card: int) -> None:
    write = Compiled(card, _all_write, torch.full((4,), -1, dtype=torch.int32), 1)
    with pytest.raises(EmulationError, match="out: one store writes two values"):
        write(write.ptx, grid=2)


def programs_one_after_another(card: int) -> None:
    """Sixteen write 0 side by side, then one writes 1."""
    write = Compiled(card, _all_write, torch.full((4,), -1, dtype=torch.int32), AT_ONCE)
    write.values["out"].fill_(-1)
    with pytest.raises(EmulationError, match="out: byte 0 is written by one warp and was written"):
        write(write.ptx, grid=AT_ONCE + 1)


def unknown_instruction(card: int) -> None:
    turn = turn_of(card)
    with pytest.raises(NotImplementedError, match=r"brev\.b32 %r1, %r1 is not emulated"):
        turn(before(turn.ptx, "bar.sync", "brev.b32 %r1, %r1;"))


def unknown_form(card: int) -> None:
    """Of an instruction that is known: rounding up would be lost."""
    turn = turn_of(card)
    with pytest.raises(NotImplementedError, match=r"add\.rp\.f32"):
        turn(before(turn.ptx, "bar.sync", "add.rp.f32 %r1, %r1, %r1;"))


def unknown_card(_: int) -> None:
    with pytest.raises(ValueError, match="card=100 is not emulated"), emulated(100):
        pass


def overwritten_operand(card: int) -> None:
    product = product_of(card)
    early = before(product.ptx, "wgmma.wait_group", "@%p1 st.shared.b32 [global_smem], 7;")
    with pytest.raises(EmulationError, match="before a wgmma that reads it was over"):
        product(early)


def operand_overwritten_later(card: int) -> None:
    """A wait that leaves the last group under way does not end it."""
    product = product_of(card)
    text = "wgmma.wait_group.sync.aligned 1;\n@%p1 st.shared.b32 [global_smem], 7;"
    with pytest.raises(EmulationError, match="before a wgmma that reads it was over"):
        product(before(product.ptx, "wgmma.wait_group", text))


def counts(card: int) -> None:
    """Of a kernel whose counts are obvious."""
    x, out, profile = torch.randn(1024), torch.zeros(1024), Profile()
    with emulated(card, profile):
        _double[(2,)](x, out, 1024, 512, num_warps=4)
    [meter] = profile.launches
    assert (meter.kernel, meter.programs, meter.warps) == ("_double", 2, 4)
    found = {what: meter.total(what) for what in ("load sectors", "store sectors", "load bytes")}
    assert found == {"load sectors": 128, "store sectors": 128, "load bytes": 4096}
    assert meter.total("memory") == 2 * 8  # 16 bytes a lane
    assert any("emulator_cases.py" in where for where, _ in meter.counts)


def conflicts(_: int) -> None:
    """Of banks: a column of rows of 128 bytes has one word a turn, a row has all in one."""
    lane, warp = np.arange(32), np.zeros(32, np.int64)
    assert wavefronts(128 * lane, 4, warp, lane) == (32, 1)
    assert wavefronts(4 * lane, 4, warp, lane) == (1, 1)
    assert wavefronts(16 * lane, 16, warp, lane) == (4, 4)
    assert wavefronts(0 * lane, 4, warp, lane) == (1, 1)


def counted_cases(card: int) -> None:
    """What ``python -m emulator`` writes."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "counts.jsonl"
        words = ["--operations", "l2_norm", "--tokens", "32", "--card", str(card), "--lines"]
        assert main([*words, "--out", str(out)]) == 0
        forward, backward = (json.loads(line) for line in out.read_text().splitlines())
    numbers = 32 * 2 * 128
    assert forward["asked B"] == forward["moved B"] == 2 * 2 * numbers
    assert backward["asked B"] >= 3 * 2 * numbers
    assert forward["tensor"] == forward["products"] == 0
    assert forward["fp32"] * 32 >= 2 * numbers


def quick(card: str) -> dict[str, Callable[[], None]]:
    """What every test run sees."""
    return products(card, "few") | faults(card)
