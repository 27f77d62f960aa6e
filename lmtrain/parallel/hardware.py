"""Cards and what they reach: the one table of data sheets, with the links between them."""

from __future__ import annotations

from dataclasses import dataclass

from lmtrain.parallel.links import Link, Links, Rates

PRODUCTS = 0.65
"""Of the peak of a data sheet, in large matrix products: an assumption, not a measurement."""

GIB = 2**30

PEAK_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "GB200": 2500e12,
}
"""Dense bf16 FLOP/s by a part of the device's name; the longest part that fits decides."""


@dataclass(frozen=True)
class Card:
    """One accelerator, per direction and second."""

    name: str
    bf16: float
    """Dense FLOP/s."""
    fp32: float
    """FLOP/s without tensor cores, as torch multiplies fp32 by default."""
    memory: int
    """Bytes that torch can allocate."""
    bandwidth: float
    """Bytes of its memory."""
    attention: float
    """FLOP/s of fused attention forward, bf16, long causal rows, heads of 128: about."""
    scan: float
    """FLOP/s of chunked recurrences: an estimate, a sixth of what attention reaches."""
    inside: Link
    """To the others of its machine."""
    across: Link
    """To those of other machines."""
    per_node: int = 8

    def rates(self, *, bf16: bool) -> Rates:
        """What a rank reaches on it."""
        slower = 1.0 if bf16 else self.fp32 / self.bf16
        products = PRODUCTS * (self.bf16 if bf16 else self.fp32)
        return Rates(self.attention * slower, self.scan * slower, self.bandwidth, products)

    @property
    def links(self) -> Links:
        """Of a cluster of its machines."""
        return Links(self.per_node, self.inside, self.across)


def _link(gigabytes: float) -> Link:
    """Ten microseconds a message: an assumption."""
    return Link(10e-6, gigabytes * 1e9)


CARDS = {
    # NVIDIA A100 80 GB SXM data sheet: 312 TFLOP/s, 19.5 in fp32, 2039 GB/s, NVLink 600 GB/s in
    # both directions. Attention: FlashAttention-2 (arXiv 2307.08691, figure 5). HDR 200 Gb/s.
    "a100": Card(
        *("A100 80 GB", PEAK_FLOPS["A100"], 19.5e12, 79 * GIB, 2.039e12),
        *(190e12, 32e12, _link(300), _link(25)),
    ),
    # NVIDIA H100 SXM data sheet: 989 TFLOP/s, 67 in fp32, 3.35 TB/s, NVLink 900 GB/s.
    # Attention: FlashAttention-3 (arXiv 2407.08608, figure 5). NDR 400 Gb/s for every GPU.
    "h100": Card(
        *("H100 SXM", PEAK_FLOPS["H100"], 67e12, 79 * GIB, 3.35e12),
        *(600e12, 100e12, _link(450), _link(50)),
    ),
    # NVIDIA H200 SXM data sheet: an H100 with 141 GB at 4.8 TB/s.
    "h200": Card(
        *("H200 SXM", PEAK_FLOPS["H200"], 67e12, 139 * GIB, 4.8e12),
        *(600e12, 100e12, _link(450), _link(50)),
    ),
    # NVIDIA HGX B200 data sheet: 2250 TFLOP/s dense, 75 in fp32, 180 GB at 7.7 TB/s, NVLink 1.8
    # TB/s. Attention: an estimate, the share of the peak that it has on H100.
    "b200": Card(
        *("B200", PEAK_FLOPS["B200"], 75e12, 178 * 10**9, 7.7e12),
        *(1350e12, 225e12, _link(900), _link(50)),
    ),
}
"""By the words of ``hardware``."""


def card_named(name: str) -> Card | None:
    """The card that a driver calls ``name``."""
    return next((card for word, card in CARDS.items() if word.upper() in name.upper()), None)
