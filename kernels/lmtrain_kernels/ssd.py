"""Scalar-decay recurrence (Mamba-2): ``S_t = e^(g_t) S_(t-1) + k_t v_t^T``, ``o_t = S_t^T q_t``.

Dao and Gu 2024 (arXiv 2405.21060), section 6; ``README.md`` beside this package has the formulas.
"""

from __future__ import annotations

from lmtrain_kernels.ssd_forward import Outputs, forward
from lmtrain_kernels.ssd_segments import cosummary, span_state

__all__ = ["Outputs", "cosummary", "forward", "span_state"]
