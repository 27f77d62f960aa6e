"""``lmtrain import``: a folder of transformers as a checkpoint, by the export's tables read back.

Of the folder only ``config.json``, safetensors and the tokenizer's JSON are opened. Code that lies
there is never run, and pickles are never read.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lmtrain import config as configuration
from lmtrain.data.tokenize import end_of_text, load_tokenizer, vocab_size
from lmtrain.export.folder import partial
from lmtrain.export.folding import folded
from lmtrain.export.hybrid import Hybrid
from lmtrain.export.hybrid_config import hybrid_config
from lmtrain.export.reading import (
    completed,
    find_target,
    language,
    read_config,
    read_model,
    scaling,
)
from lmtrain.export.trained import blank
from lmtrain.export.weights import entries, incoming
from lmtrain.train.checkpoint import State
from lmtrain.train.manifest import NAME, Manifest
from lmtrain.train.stored import Stored, write_shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tokenizers import Tokenizer
    from torch import Tensor

    from lmtrain.export.targets import Json, Target
    from lmtrain.models.config import ModelConfig
    from lmtrain.settings.export import ImportConfig

UNREAD = re.compile(r"^mtp\.|^model\.visual\.|rotary_emb\.inv_freq$")
"""Names that the language model of transformers leaves out too: heads for tokens further on,
encoders of images, tables of old versions."""

PRESET = "configs/model/imported.yaml"
"""The model section, as an option of Hydra: ``--config-dir OUT/configs model=imported``."""


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
    factors, scaled = target.factors(completed(target, said)), scaling(target, model, said)
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
    unread = [name for name in stored if UNREAD.search(name)]
    tell(out, target, model, scaled=scaled, unread=unread, hybrid=hybrid)
    special = {n: str(tokenizer.id_to_token(i)) for n, i in around.items() if i is not None}
    tell_verbs(out, special, teacher=source if hybrid else None)
    return out


def tell(
    out: Path,
    target: Target,
    model: ModelConfig,
    *,
    scaled: list[str],
    unread: list[str],
    hybrid: Hybrid | None,
) -> None:
    """What was made of the folder."""
    print(f"{out}: {target.architecture}, pattern {model.pattern} over {model.n_layers} blocks")
    if scaled:
        print(f"  multiplied into the weights: {', '.join(scaled)}")
    if unread:
        print(f"  left out: {len(unread)} tensors that serve no next token, {unread[0]} the first")
    if hybrid:
        print(hybrid.summary())


def tell_verbs(out: Path, special: Mapping[str, str], teacher: Path | None) -> None:
    """What can be done with the checkpoint, which knows documents with these tokens around them."""
    words = " ".join(f"{name}={shlex.quote(token)}" for name, token in special.items())
    print(f"  lmtrain generate checkpoint={out}")
    print(f"  lmtrain prepare input=TEXTS out=STORE tokenizer={out}/tokenizer.json {words}")
    again = f"data=store data.source=STORE run.weights={out} run.dir=runs/{out.name}"
    print(f"  lmtrain train --config-dir {out}/configs model=imported {again}")
    if teacher:
        print(f"  … distill.teacher=CKPT  to learn from {teacher}, imported without a pattern")


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
    end = end[0] if isinstance(end, list) and end else end
    end = end_of_text(tokenizer) if end is None else end
    begin = said.get("bos_token_id")
    begin = begin if _opens(tokenizer, begin) else None
    if type(end) is not int or not 0 <= end < rows or tokenizer.id_to_token(end) is None:
        raise ValueError(f"{folder}/config.json says eos_token_id={end}, no token of its tokenizer")
    return {"begin_of_text": begin, "end_of_text": end}


def _opens(tokenizer: Tokenizer, begin: int | None) -> bool:
    """Whether the tokenizer puts this token before a text: many models name one and never do."""
    tokenizer.encode_special_tokens = False
    return begin is not None and tokenizer.encode("a").ids[:1] == [begin]
