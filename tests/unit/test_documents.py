"""What the documents name is there: keys of commands, files, anchors."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra.errors import HydraException

from lmtrain.cli import VERBS, help_text, quoted
from lmtrain.config import compose
from lmtrain.help import split
from lmtrain.sentence import sentence

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "DESIGN.md",
    "benchmarks/README.md",
    "kernels/README.md",
    "lmtrain/export/README.md",
)
SHELLS = ("scripts/*.sh", "Makefile")
PATHS = ("checkpoint", "data.source", "folder", "input", "out", "prompt", "run", "run.dir")
"""Keys that take any value."""
LMTRAIN = re.compile(rf"(?:(?<![\w/.])|/)lmtrain ({'|'.join(VERBS)})\b([^\n`|]*)")


def read(name: str) -> str:
    """A document, its continued lines joined."""
    return re.sub(r"\s*\\\n\s*", " ", (ROOT / name).read_text(encoding="utf-8"))


def commands() -> set[tuple[str, tuple[str, ...]]]:
    """Every verb with its overrides: those of the help, of documents, and of scripts."""
    shells = [str(path.relative_to(ROOT)) for glob in SHELLS for path in ROOT.glob(glob)]
    texts = [help_text(), *map(read, (*DOCUMENTS, *shells))]
    found = {(verb, overrides(words)) for text in texts for verb, words in LMTRAIN.findall(text)}
    return {(verb, words) for verb, words in found if words}


def overrides(words: str) -> tuple[str, ...]:
    """What Hydra would compose: of a sweep its first point; nothing that a shell fills in."""
    found = shlex.split(words, comments=True)
    several = "-m" in found
    found = [w for w in split(found)[1] if re.fullmatch(r"[\w.+/~]+=[^$…<{]+", w)]
    found = [w for w in found if not w.startswith("hydra") and w != "model=imported"]
    if several:
        found = [re.sub(r"=([^,\[\]]*),.*", r"=\1", word) for word in found]
    return tuple(quoted(word) for word in found)


def together() -> list[tuple[str, dict[str, str]]]:
    """Overrides by key, in fewer commands: those that do not contradict each other make one."""
    merged = list[tuple[str, dict[str, str]]]()
    for verb, words in sorted(commands()):
        keys = {key: f"{key}={'x' if key in PATHS else value}" for key, value in map(pair, words)}
        for other, chosen in merged:
            if other == verb and all(chosen.get(key, word) == word for key, word in keys.items()):
                chosen.update(keys)
                break
        else:
            merged.append((verb, keys))
    return merged


def pair(word: str) -> tuple[str, str]:
    """Key and value of an override."""
    key, _, value = word.partition("=")
    return key, value


def test_the_readme_shows_the_plan_that_its_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = (ROOT / "README.md").read_text(encoding="utf-8").split("## Plan before you run")[1]
    command, shown = re.findall(r"```\n(.*?)```", plan, re.DOTALL)[:2]
    _, verb, *words = shlex.split(command.replace("\\\n", " "))
    VERBS[verb].run(compose(words, VERBS[verb].config))
    printed = re.sub(r"[\s┃│]+", " ", capsys.readouterr().out)
    rows, _, sentences = shown.partition("\n\n")
    columns = [re.split(r"\s{2,}", row.strip()) for row in rows.splitlines()[1:]]
    assert len(columns) == 7
    told = [" ".join(part) for row in columns for part in (row[:2], row[2:])]
    for words in (*told, *sentences.split("\n")):
        assert " ".join(words.split()) in printed, words


def test_commands_of_documents_have_keys_that_there_are() -> None:
    found, refused = together(), list[str]()
    assert len({word for _, words in found for word in words}) > 60
    for verb, words in found:
        try:
            compose(words.values(), VERBS[verb].config)
        except (HydraException, ValueError) as error:
            refused.append(f"lmtrain {verb}: {sentence(error)}")
    assert refused == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_and_places_that_documents_name_are_there(name: str) -> None:
    text, folder = read(name), (ROOT / name).parent
    headings = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    anchors = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings}
    linked = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text)
    named = re.findall(r"`((?:lmtrain|tests|scripts|configs|benchmarks)/[\w./]+)`", text)
    paths = [*(path for path, _ in linked), *named]
    assert [path for path in paths if not (ROOT / path).exists() | (folder / path).exists()] == []
    assert [place for path, place in linked if place and not path and place not in anchors] == []
