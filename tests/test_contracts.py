"""What the repository promises as a whole: packaging, light imports, import order."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
COMPOSE_EVERYTHING = """
import json, sys
from pathlib import Path
import lmtrain, lmtrain_kernels
from lmtrain.config import compose, config_dir
from lmtrain.cli import VERBS

folder = config_dir()
composed = [compose([], verb.config) and name for name, verb in VERBS.items()]
for path in sorted(folder.rglob("*.yaml")):
    group, option = path.parent.relative_to(folder), path.stem
    if group.parts and group.parts[0] != "hydra" and group.name != "half_blocks":
        chosen = "+" if group.name in ("experiment", "sweep") else ""  # by no default
        compose([f"{chosen}{group}={option}"])
        composed.append(f"{group}={option}")
print(json.dumps([lmtrain.__file__, lmtrain_kernels.__file__, str(folder), composed]))
"""


def python(code: str, *, executable: str | Path = sys.executable, cwd: Path = ROOT) -> str:
    """What ``code`` prints in a fresh interpreter."""
    command = [str(executable), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_composes_every_shipped_config(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    built = ["wheel", *offline, "--no-build-isolation", f"--wheel-dir={tmp_path}", str(ROOT)]
    subprocess.run([*pip, *built], check=True)
    [wheel] = tmp_path.glob("*.whl")

    venv.create(tmp_path / "env", symlinks=True)
    executable = tmp_path / "env" / "bin" / "python"
    subprocess.run([*pip, f"--python={executable}", "install", *offline, str(wheel)], check=True)
    site = Path(
        python(
            "import sysconfig; print(sysconfig.get_path('purelib'))", executable=executable
        ).strip()
    )
    # the dependencies, not the editable lmtrain, of this environment
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    answer = python(COMPOSE_EVERYTHING, executable=executable, cwd=tmp_path)
    package, kernels, configs, composed = json.loads(answer)
    assert Path(package).parent == site / "lmtrain"
    assert Path(kernels).parent == site / "lmtrain_kernels"
    assert Path(configs) == site / "lmtrain" / "configs"
    assert {"model=hybrid_3to1", "model/size=8b", "train", "bench"} <= set(composed)
    assert (site / "lmtrain" / "py.typed").is_file()
    command = [str(executable.parent / "lmtrain"), "--version"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_importing_lmtrain_imports_nothing_heavy() -> None:
    loaded = python("import sys, lmtrain, lmtrain.cli; print(*sys.modules)").split()
    heavy = {"torch", "triton", "transformers", "deepspeed", "hydra", "omegaconf", "numpy", "rich"}
    assert not heavy & set(loaded)


def test_imports_keep_their_order() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_nothing_shadows_the_kernels_package_of_others() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("package", ["models", "ops"])
def test_models_and_operations_know_no_ranks(package: str) -> None:
    for path in (ROOT / "lmtrain" / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert not any(name.startswith("torch.distributed") for name in names), path


def test_memory_that_nobody_wrote_is_nan() -> None:
    assert torch.empty(3, 4).isnan().all()
    assert torch.zeros(2).new_empty(5).isnan().all()


@pytest.mark.parametrize("part", ["models", "ops", "data"])
def test_what_computes_knows_of_no_other_process(part: str) -> None:
    """Strategies are put in from outside: nothing here sends."""
    files = sorted((ROOT / "lmtrain" / part).rglob("*.py"))
    assert files
    assert [str(file) for file in files if "torch.distributed" in file.read_text()] == []
