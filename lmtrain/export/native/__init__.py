"""The models of transformers that a stack can become, the best served first."""

from lmtrain.export.native.attention_only import LLAMA, MISTRAL, OLMO3, QWEN3
from lmtrain.export.native.falcon_h1 import FALCON_H1
from lmtrain.export.native.granite import GRANITE, GRANITE_HYBRID
from lmtrain.export.native.mamba2 import MAMBA2
from lmtrain.export.native.nemotron import NEMOTRON
from lmtrain.export.native.olmo_hybrid import OLMO_HYBRID
from lmtrain.export.native.qwen3_5 import QWEN3_5

NATIVE = (
    *(LLAMA, MISTRAL, QWEN3, OLMO3, GRANITE),
    *(QWEN3_5, OLMO_HYBRID, GRANITE_HYBRID, FALCON_H1, NEMOTRON, MAMBA2),
)
"""The first without a blocker is taken."""
