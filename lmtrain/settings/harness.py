"""Tasks of lm-evaluation-harness, asked of an exported folder by `lmtrain eval`."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmtrain.settings.checks import positive


@dataclass(kw_only=True)
class HarnessSection:
    """Tasks of lm-evaluation-harness (the extra ``harness``), on a folder of `lmtrain export`."""

    tasks: list[str] = field(default_factory=list[str])
    """Their names, such as [niah_single_1,ruler_vt]; checkpoint is then an exported folder, and
    lengths are those of RULER's rows (arXiv 2404.06654; 4096 if empty)."""
    limit: int | None = None
    """Questions of each task; null asks all."""
    batch: int = 1
    """Questions answered at once."""
    trust_remote_code: bool = False
    """Run the code that lies in the folder, as exports with target=custom need."""
    online: bool = False
    """Let tasks fetch their data from the Hugging Face hub; false takes what its cache has."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        return positive({"harness.limit": self.limit, "harness.batch": self.batch})
