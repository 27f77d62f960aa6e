"""A tiny transformer that learned some words, imported as it is and as a hybrid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runs import Run

from lmtrain.export.export import export
from lmtrain.export.importing import import_folder
from lmtrain.settings.export import ExportConfig, ImportConfig

TRANSFORMER = [
    *("model.pattern=A", "model.attention.heads=4", "model.attention.kv_heads=2"),
    *("optim.lr=1e-2", "samples.count=0"),
    *("validation.every=null", "checkpoint.every=null", "validation.tokens=2048"),
]


@dataclass(frozen=True)
class Taught:
    """Checkpoints, and the words of a run that learns from one of them."""

    teacher: Run
    plain: Path
    hybrid: Path
    overrides: list[str]

    def words(self, *more: str) -> list[str]:
        """Overrides of a run of the hybrid with its teacher."""
        return [
            *self.overrides,
            *("model=imported", f"hydra.searchpath=[file://{self.hybrid / 'configs'}]"),
            *(f"run.weights={self.hybrid}", f"distill.teacher={self.plain}", *more),
        ]


def teach(tiny: list[str], root: Path, *, pattern: str = "GWMA", steps: int = 40) -> Taught:
    """Train a transformer, export it, import it twice."""
    teacher = Run(root / "teacher", [*tiny, *TRANSFORMER, f"train.steps={steps}"])
    assert teacher.train() == 0
    folder, plain, hybrid = root / "folder", root / "plain", root / "hybrid"
    export(ExportConfig(checkpoint=str(teacher.folder), out=str(folder), verify=False))
    import_folder(ImportConfig(folder=str(folder), out=str(plain)))
    import_folder(ImportConfig(folder=str(folder), out=str(hybrid), pattern=pattern, window=16))
    overrides = [word for word in tiny if not word.startswith("model.")]
    return Taught(teacher, plain, hybrid, [*overrides, "optim.lr=3e-3", "samples.count=0"])
