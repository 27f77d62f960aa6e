"""``lmtrain export``: a checkpoint as a folder that transformers loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lmtrain import config as configuration
from lmtrain.export.card import advice, card
from lmtrain.export.custom import CUSTOM
from lmtrain.export.folder import partial
from lmtrain.export.native import NATIVE
from lmtrain.export.targets import letters
from lmtrain.export.tokenizer import write_tokenizer
from lmtrain.export.trained import Trained, blank
from lmtrain.export.verify import OUTSIDE, rounded, verify
from lmtrain.export.weights import Entries, entries, plan, size, write_weights
from lmtrain.settings.export import Home, StoredDtype

if TYPE_CHECKING:
    from lmtrain.export.targets import Json, Target
    from lmtrain.models.config import ModelConfig
    from lmtrain.settings.export import ExportConfig

DTYPES = {StoredDtype.fp32: torch.float32, StoredDtype.bf16: torch.bfloat16}


def choose(model: ModelConfig, home: Home) -> Target:
    """The first target without a blocker, or our own code.

    Raises:
        ValueError: no native target takes the stack, and one was asked for; or transformers cannot
            generate with it.
    """
    if "W" in letters(model) and model.sliding_window.window == 1:
        raise ValueError(
            "model.sliding_window.window=1 has no export: caches of transformers keep one token "
            "less than a window, and none breaks them; train with 2 or more"
        )
    if home is Home.custom:
        return CUSTOM
    blocked = {target.model_type: target.blockers(model) for target in NATIVE}
    free = [target for target in NATIVE if not blocked[target.model_type]]
    if free or home is Home.auto:
        return [*free, CUSTOM][0]
    nearest = min(blocked, key=lambda name: _distance(blocked[name]))
    why = "; ".join(blocked[nearest])
    raise ValueError(
        f"target=native: no model of transformers computes this stack. The nearest is {nearest}: "
        f"{why}. Say target=custom for our own code in the folder"
    )


def _distance(blockers: list[str]) -> tuple[int, int]:
    """How far a stack is from a target: another pattern is farther than any other field."""
    return sum("model.pattern" in each for each in blockers), len(blockers)


def describe(target: Target, trained: Trained, dtype: torch.dtype) -> Json:
    """``config.json``."""
    return {
        "architectures": [target.architecture],
        "model_type": target.model_type,
        **target.describe(trained.run.model),
        "max_position_embeddings": trained.run.curriculum.max_length,
        "bos_token_id": trained.begin_of_text,
        "eos_token_id": trained.end_of_text,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": str(dtype).removeprefix("torch."),
    }


def generation(trained: Trained) -> Json:
    """``generation_config.json``: rows of the embedding that are no token are never drawn."""
    unused = list(trained.unused)
    return {
        "bos_token_id": trained.begin_of_text,
        "eos_token_id": trained.end_of_text,
        "pad_token_id": trained.end_of_text,
        **({"suppress_tokens": unused} if unused else {}),
    }


def export(config: ExportConfig) -> Path | None:
    """Write the folder, prove it, and give it its name.

    Returns:
        The folder; None if nothing was to be written.

    Raises:
        ValueError: the configuration has problems, the stack has no home, or the folder does not
            compute what was trained; then nothing of that name is left.
    """
    configuration.require(config.check())
    assert config.checkpoint is not None
    trained = Trained.open(Path(config.checkpoint))
    model, dtype = trained.run.model, DTYPES[config.dtype]
    target = choose(model, config.target)
    files = plan(entries(target, model, dtype), config.shard_bytes)
    tell(target, files)
    if config.dry or config.out is None:
        for other in NATIVE:
            print(f"  {other.model_type}: {'; '.join(other.blockers(model)) or 'fits'}")
        return None
    out = Path(config.out)
    with partial(out, key="out") as folder:
        write_weights(folder, files, target.links(model), trained.tensors.__getitem__, dtype)
        write_json(folder / "config.json", describe(target, trained, dtype))
        write_json(folder / "generation_config.json", generation(trained))
        write_tokenizer(
            folder,
            trained.folder / "tokenizer.json",
            begin=trained.begin_of_text,
            end=trained.end_of_text,
            longest=trained.run.curriculum.max_length,
        )
        for file in target.code:
            shutil.copyfile(OUTSIDE / file, folder / file)
        (folder / "README.md").write_text(
            card(
                trained,
                target,
                name=out.name,
                license_=config.license,
                parameters=sum(x.numel() for x in blank(model).values()),
            )
        )
        if config.verify:
            read = trained.tensors.__getitem__
            if dtype is not torch.float32:
                read = rounded(target.links(model), read, dtype)
            code = target is CUSTOM
            error = verify(folder, model, read, vocabulary=trained.vocabulary, code=code)
            print(f"verified: transformers alone gives the same logits to {error:.1e}")
    print(f"{out}: served by {target.served_by}. {' '.join(advice(target, trained))}")
    return out


def tell(target: Target, files: dict[str, Entries]) -> None:
    """Where it goes, and the files."""
    print(f"{target.architecture} ({target.model_type})")
    for name, shard in files.items():
        print(f"  {name}: {len(shard)} tensors, {size(shard) / 1e6:,.1f} MB")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """As transformers writes it."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
