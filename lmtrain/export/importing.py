"""``lmtrain import``: a folder of transformers as a checkpoint, by the export's tables read back.

Of the folder only ``config.json``, safetensors and the tokenizer's JSON are opened. Code that lies
there is never run, and pickles are never read.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lmtrain import config as configuration
from lmtrain.data.tokenize import end_of_text, load_tokenizer, vocab_size
from lmtrain.export.custom import CUSTOM
from lmtrain.export.folder import partial
from lmtrain.export.folding import folded
from lmtrain.export.hybrid import Hybrid
from lmtrain.export.hybrid_config import hybrid_config
from lmtrain.export.native import NATIVE
from lmtrain.export.trained import blank
from lmtrain.export.weights import entries, incoming
from lmtrain.train.checkpoint import State
from lmtrain.train.manifest import NAME, Manifest
from lmtrain.train.stored import Stored, write_shard

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenizers import Tokenizer
    from torch import Tensor

    from lmtrain.export.targets import Json, Target
    from lmtrain.models.config import ModelConfig
    from lmtrain.settings.export import ImportConfig

FREE = {
    *("initializer_range", "attention_dropout", "chunk_size", "mamba_chunk_size"),
    *("residual_in_fp32", "intermediate_size", "num_experts_per_tok"),
    "time_step_min",  # transformers clamps by it; servers and trainers only initialise by it
    *("layer_types", "rope_parameters", "rope_scaling", "rope_theta"),  # judged in `read`
    *("partial_rotary_factor", "num_key_value_heads", "head_dim", "position_embedding_type"),
    "use_sliding_window",
    *("stack", "blocks", "auto_map"),
}
"""Keys of a ``config.json`` that may differ from what an export would write."""

UNREAD = re.compile(r"^mtp\.|^model\.visual\.|rotary_emb\.inv_freq$")
"""Names that the language model of transformers leaves out too: heads for tokens further on,
encoders of images, tables of old versions."""

PRESET = "configs/model/imported.yaml"
"""The model section, as an option of Hydra: ``--config-dir OUT/configs model=imported``."""

TARGETS = {target.model_type: target for target in (*NATIVE, CUSTOM)}
AROUND = {target.inside: target for target in NATIVE if target.inside}


def import_folder(config: ImportConfig) -> Path:
    """Write a checkpoint of step 0.

    Raises:
        ValueError: the folder is of an architecture that lmtrain does not have, or its parts do not
            fit together; nothing is written then.
    """
    configuration.require(config.check())
    assert config.folder is not None
    assert config.out is not None
    source, out = Path(config.folder), Path(config.out)
    said = language(read_config(source), source)
    target = find_target(said, source)
    model = read_model(target, said, source)
    factors = target.factors(completed(target, said))
    links = list(target.links(model))
    stored = Stored.folder(source)
    tensors = renamed(target, stored)
    if model.tie_embeddings:  # a copy of the embedding, which some writers keep
        tensors = tensors.without("lm_head.weight")
    theirs = {name: tuple(x.shape) for name, x in entries(target, model, torch.float32).items()}
    tensors.expect(theirs, f"{source} does not fit its config.json")
    tokenizer = load_tokenizer(source / "tokenizer.json")
    around = special_tokens(tokenizer, said, source)
    read = incoming(links, folded(tensors.__getitem__, factors))
    hybrid = None
    if config.pattern is not None:
        hybrid = Hybrid(model, hybrid_config(model, config), read, seed=config.seed)
        model, read = hybrid.model, hybrid.__getitem__
    run = configuration.RunConfig(model=model)
    run.curriculum.max_length = said.get("max_position_embeddings") or run.curriculum.max_length
    text = (source / "tokenizer.json").read_text(encoding="utf-8")
    with partial(out, key="out") as folder:
        write_checkpoint(
            folder, run, tokenizer=text, around=around, contents=map(read, blank(model))
        )
    print(f"{out}: {target.architecture}, pattern {model.pattern} over {model.n_layers} blocks")
    if scaled := scaling(target, model, said):
        print(f"  multiplied into the weights: {', '.join(scaled)}")
    if unread := [name for name in stored if UNREAD.search(name)]:
        print(f"  left out: {len(unread)} tensors that serve no next token, {unread[0]} the first")
    if hybrid:
        print(hybrid.summary())
    print(f"  lmtrain generate checkpoint={out}")
    print(f"  lmtrain train --config-dir {out}/configs model=imported run.weights={out}")
    if hybrid:
        print(f"  … distill.teacher=CKPT  to learn from {source}, imported without a pattern")
    return out


def write_checkpoint(
    folder: Path,
    run: configuration.RunConfig,
    *,
    tokenizer: str,
    around: dict[str, int | None],
    contents: Iterable[Tensor],
) -> None:
    """A checkpoint of step 0, without optimizer state; ``contents`` as `blank` orders them."""
    texts = {
        "config.yaml": configuration.to_yaml(run),
        PRESET: f"# @package model\n{configuration.to_yaml(run.model)}",
        "tokenizer.json": tokenizer,
        "special_tokens.json": json.dumps(around) + "\n",
        "state.json": json.dumps(asdict(State(step=0, plan="", identity={}))) + "\n",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "model").mkdir()
    shard = folder / "model" / "model-00001-of-00001.safetensors"
    write_shard(shard, blank(run.model), contents)
    files = [path for path in folder.rglob("*") if path.is_file()]
    Manifest.of(folder, files).write(folder / NAME)


def read_config(folder: Path) -> Json:
    """``config.json``.

    Raises:
        ValueError: it is missing or no object.
    """
    path = folder / "config.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: give a folder that transformers loads") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{path} is not a configuration of transformers")
    return said


def language(said: Json, folder: Path) -> Json:
    """What a model of images and text says of its language model; any other, as it is.

    Raises:
        ValueError: it says nothing of it.
    """
    if said.get("model_type") not in AROUND:
        return said
    inner, target = said.get("text_config"), AROUND[said["model_type"]]
    if not isinstance(inner, dict):
        raise ValueError(f"{folder}/config.json has no text_config: it names no language model")
    tied = said.get("tie_word_embeddings", False)
    return {"model_type": target.model_type, "tie_word_embeddings": tied, **inner}


def find_target(said: Json, folder: Path) -> Target:
    """The target that the folder is of.

    Raises:
        ValueError: lmtrain does not have it.
    """
    kind = said.get("model_type")
    if kind in TARGETS:
        return TARGETS[kind]
    code = ", and code of a folder is never run" if "auto_map" in said else ""
    raise ValueError(
        f"{folder} is of model_type {kind}{code}: lmtrain imports {', '.join((*TARGETS, *AROUND))}"
    )


def read_model(target: Target, said: Json, folder: Path) -> ModelConfig:
    """The stack that a ``config.json`` describes.

    Whatever the target would write in another way is something that lmtrain does not compute, but
    for multipliers, which go into the weights.

    Raises:
        ValueError: the configuration lacks a key, or asks for what lmtrain does not have.
    """
    whole = completed(target, said)
    try:
        model = target.read(whole)
        target.factors(whole)
        configuration.require(model.check())
    except KeyError as error:
        raise ValueError(f"{folder}/config.json does not say {error}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder}/config.json: {error}") from error
    free = FREE | target.multipliers.keys()
    for key, value in target.describe(model).items():
        if key in whole and key not in free and not same(whole[key], value):
            says = "says" if key in said else "is silent, which means"
            raise ValueError(
                f"{folder}/config.json {says} {key}={whole[key]}: of {target.model_type}, lmtrain "
                f"has {key}={value}"
            )
    return model


def completed(target: Target, said: Json) -> Json:
    """A ``config.json`` with what its silence means."""
    return {**target.defaults, **target.multipliers, **said}


def scaling(target: Target, model: ModelConfig, said: Json) -> list[str]:
    """The multipliers of a ``config.json`` that do something."""
    whole, idle = completed(target, said), target.describe(model)
    keys = (key for key in target.multipliers if whole[key] is not None)
    return [f"{key}={whole[key]}" for key in keys if not same(whole[key], idle[key])]


def same(theirs: Any, ours: Any) -> bool:
    """Whether two values of ``config.json`` mean the same."""
    if isinstance(ours, float) and isinstance(theirs, int | float):
        return isclose(theirs, ours, rel_tol=1e-6)
    return theirs == ours


def renamed(target: Target, tensors: Stored) -> Stored:
    """The tensors under the names of the target's table, without those that no model reads."""
    tensors = tensors.without(*(name for name in tensors if UNREAD.search(name)))
    for old, new in target.renamed:
        tensors = tensors.with_prefix(old, new)
    return tensors


def special_tokens(tokenizer: Tokenizer, said: Json, folder: Path) -> dict[str, int | None]:
    """The ids around documents.

    Raises:
        ValueError: the tokenizer knows more tokens than the model, or not these.
    """
    known, rows = vocab_size(tokenizer), said["vocab_size"]
    if known > rows:
        raise ValueError(
            f"{folder} has a tokenizer of {known} tokens and a model of {rows}: it is the "
            "tokenizer of another model"
        )
    end = said.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    end = end_of_text(tokenizer) if end is None else end
    begin = said.get("bos_token_id")
    begin = begin if _opens(tokenizer, begin) else None
    if tokenizer.id_to_token(end) is None:
        raise ValueError(f"{folder}/config.json says eos_token_id={end}, no token of its tokenizer")
    return {"begin_of_text": begin, "end_of_text": end}


def _opens(tokenizer: Tokenizer, begin: int | None) -> bool:
    """Whether the tokenizer puts this token before a text: many models name one and never do."""
    tokenizer.encode_special_tokens = False
    return begin is not None and tokenizer.encode("a").ids[:1] == [begin]
