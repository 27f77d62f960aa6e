"""Fingerprints: small numbers by which processes and runs see that they read the same."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from lmtrain.data.bucket import Draw


def fingerprint(*arrays: NDArray[Any]) -> int:
    """64 bits of a hash over integer arrays, their lengths and order; fits a signed int64."""
    digest = blake2b(digest_size=8)
    for values in arrays:
        digest.update(len(values).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(values, "<i8").data)
    return int.from_bytes(digest.digest(), "little", signed=True)


def row_fingerprint(*rows: Draw) -> int:
    """What the processes that share rows must agree on: which segments lie in them, and where.

    It is that of the whole rows, whatever span of them a process reads. Processes agree when the
    smallest and the largest of their fingerprints are one number.
    """
    return fingerprint(*(part for row in rows for part in row.segments))
