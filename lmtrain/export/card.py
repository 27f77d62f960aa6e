"""The model card: the facts of the run, how to load the folder, who serves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmtrain import __version__
from lmtrain.export.targets import letters
from lmtrain.train.checkpoint import read_state

if TYPE_CHECKING:
    from lmtrain.export.targets import Target
    from lmtrain.export.trained import Trained


OLD_NORMS = {"granitemoehybrid", "mamba2"}
"""Architectures whose norm behind Mamba-2's gate transformers before 5.23 takes over all groups."""


def card(
    trained: Trained,
    target: Target,
    *,
    name: str,
    license_: str | None,
    parameters: int,
) -> str:
    """``README.md`` of the folder."""
    model, done = trained.run.model, training(trained)
    code = ", trust_remote_code=True" if target.code else ""
    facts = {
        "pattern": f"`{model.pattern}` tiled to {model.n_layers} blocks, width {model.d_model}",
        "parameters": f"{parameters:,}",
        **done,
    }
    made = "pretrained with" if done else "of other making, imported by"
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    tags = "\n".join(f"- {tag}" for tag in dict.fromkeys(["lmtrain", target.model_type]))
    head = [*([f"license: {license_}"] if license_ else []), "library_name: transformers"]
    return f"""\
---
{chr(10).join(head)}
tags:
{tags}
---
# {name}

A language model {made} lmtrain {__version__}. {_letters(model.pattern)}

| | |
|---|---|
{rows}

## Load

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}"{code})
tokenizer = AutoTokenizer.from_pretrained("{name}"{code})
```

Architecture: `{target.architecture}`. Served by: {target.served_by}.

{" ".join(advice(target, trained))}
"""


def training(trained: Trained) -> dict[str, str]:
    """What the run did; nothing of an import that was not trained since."""
    state, run = read_state(trained.folder), trained.run
    if state.step == 0:
        return {}
    lengths = run.curriculum
    return {
        "steps": f"{state.step:,} of {run.train.tokens_per_step:,} tokens",
        "tokens seen": f"{state.tokens:,}",
        "data": ", ".join(map(escaped, run.data.sources or [run.data.source])),
        "curriculum": f"{lengths.name}, {lengths.view}, documents of {lengths.min_length} to "
        f"{lengths.max_length} tokens",
        **losses(trained.folder, state.step),
    }


def losses(checkpoint: Path, step: int) -> dict[str, str]:
    """The last training and validation loss up to a step, from the run's ``metrics.jsonl``."""
    metrics = checkpoint.parent.parent / "metrics.jsonl"
    if not metrics.is_file():
        return {}
    reports = [report for line in metrics.read_text().splitlines() if (report := _report(line))]
    found: dict[str, str] = {}
    wanted = {"loss": "training loss", "val_loss": "validation loss"}
    wanted["val_bits_per_byte"] = "validation bits per byte"
    for report in reports:
        if report.get("step", 0) <= step:
            found |= {said: f"{report[key]:.4f}" for key, said in wanted.items() if report.get(key)}
    return found


def escaped(name: str) -> str:
    """The last part of a path, as a cell of a table; where it lay is nobody's business."""
    return Path(name).name.replace("|", "\\|").replace("\n", " ")


def _report(line: str) -> dict[str, Any]:
    """A line of metrics; empty if it was cut short."""
    try:
        report = json.loads(line)
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def _letters(pattern: str) -> str:
    kinds = {
        "A": "A attention",
        "W": "W sliding-window attention",
        "M": "M Mamba-2",
        "G": "G Gated DeltaNet",
    }
    present = [said for letter, said in kinds.items() if letter in pattern.upper()]
    return f"Letters of its pattern: {', '.join(present)}; small letters have no MLP."


def advice(target: Target, trained: Trained) -> list[str]:
    """What a user of the folder must know, in sentences."""
    model, found = trained.run.model, ["Pad on the left."]
    if trained.unused:
        found.append(
            "Take the ids of tokens that you add out of `suppress_tokens` in "
            "`generation_config.json`: it keeps rows of the embedding without a token from being "
            "drawn."
        )
    if target.code:
        found.append("The folder brings its own code, in torch alone.")
        found.append("Pack documents by `position_ids` without an `attention_mask`: that is exact.")
        return found
    if letters(model) & {"G", "M"}:
        found.append(
            "Do not pack documents into one row: transformers lets the state of one document into "
            "the next."
        )
    grouped = "M" in letters(model) and model.mamba2.groups > 1
    if grouped and target.model_type in OLD_NORMS:
        found.append(
            "It has several groups of B and C, whose norm transformers computes rightly from 5.23 "
            "on; servers may bring an older one."
        )
    return found
