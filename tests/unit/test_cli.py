"""The command line, without a run."""

from __future__ import annotations

import subprocess
import sys
from argparse import Action, ArgumentParser
from functools import partial
from typing import Any, cast

import pytest
from hydra.errors import HydraException

from lmtrain import cli, config
from lmtrain.help import keys


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lmtrain", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_alone_it_teaches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["lmtrain", *words])
        cli.main()
        text = capsys.readouterr().out
        assert all(f"  {verb} " in text for verb in cli.VERBS)
        assert "lmtrain train" in text
        assert "--cfg job" in text


def test_an_unknown_verb_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lmtrain", "tarin"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "lmtrain: there is no verb tarin: do you mean train?\n"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_shows_its_configuration(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lmtrain", verb, "--cfg", "job"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0
    assert ":" in capsys.readouterr().out


def test_help_of_hydra_that_is_no_text_yet_is_let_through(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where argparse looks at once, as that of Python 3.14 does."""
    added = ArgumentParser.add_argument

    def look(parser: ArgumentParser, action: Action) -> None:
        if not isinstance(action.help, str | None):
            raise ValueError("badly formed help string")

    def add(parser: Any, *words: str, **options: Any) -> Action:
        action = added(parser, *words, **options)
        parser._check_help(action)
        return action

    monkeypatch.setattr(ArgumentParser, "_check_help", look, raising=False)
    monkeypatch.setattr(ArgumentParser, "add_argument", add)
    assert "train:" in helped("train", "--cfg", "job", monkeypatch=monkeypatch, capsys=capsys)[0]


def helped(
    *words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[str, str, int]:
    """What ``lmtrain words`` prints, to either stream, and its exit code."""
    monkeypatch.setattr(sys, "argv", ["lmtrain", *words])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    out, err = capsys.readouterr()
    return out, err, cast("int", exit_.value.code)


def test_help_of_a_verb_has_its_groups_and_what_every_key_means(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = partial(helped, monkeypatch=monkeypatch, capsys=capsys)
    text, _, code = shown("train", "optim=wsd", "train.steps=7", "--help")
    assert code == 0
    assert "  optim              adamw muon *wsd\n" in text
    assert "  train.steps=7                        Optimizer updates" in text
    assert all(f"  {key}=" in text for key in config.flat(config.RunConfig()) if "." in key)
    assert "Groups" not in shown("report", "--help")[0]
    for columns, most in (("20", 80), ("110", 110), ("300", 120)):
        monkeypatch.setenv("COLUMNS", columns)
        text = shown("report", "--help")[0]
        assert "…" not in text
        assert max(map(len, text.splitlines())) in range(most - 10, most + 1)


def test_help_tells_all_of_what_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = partial(helped, monkeypatch=monkeypatch, capsys=capsys)
    text, _, code = shown("train", "--help", "engine.precision", "faults", "-m", "optim.lr=1,2")
    assert code == 0
    assert "engine.precision=fp32\n      Dtype of the activations. (fp32, bf16)\n" in text
    assert [line for line in text.splitlines() if line.startswith("  faults.")] == [
        "  faults.policy=abort",
        "  faults.spike=null",
        "  faults.window=64",
        "  faults.limit=8",
    ]
    out, err, code = shown("train", "--help", "engne")
    assert (out, code) == ("", 2)
    assert err == "lmtrain: --help engne: lmtrain train has no such key: do you mean engine?\n"


def test_every_key_has_a_meaning() -> None:
    verbs = config.GenerateConfig(), config.EvalConfig(), config.ExportConfig()
    others = config.ImportConfig(), config.PrepareConfig(), config.ReportConfig()
    roots = (*verbs, *others, config.BenchConfig(), config.InspectConfig())
    found = [key for root in roots for key in keys(root)]
    assert [key.name for key in found if len(key.about) < 4] == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("lmtrain tr", "train"), ("lmtrain train optim=", "optim=wsd"), ("lmtrain bench wh", "what=")],
)
def test_the_shell_completes_verbs_groups_and_keys(
    typed: str, offered: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lmtrain", "-sc", "query=bash"])
    monkeypatch.setenv("COMP_LINE", typed)
    cli.main()
    assert offered in capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.step=1", "there is no key train.step: do you mean train.steps?"),
        ("heads=3", "there is no key heads: do you mean model.attention.heads?"),
        ("optimizer.lr=1", "there is no key optimizer: do you mean optim.lr?"),
        ("sweep=width", "To append to your default list use +sweep=width"),
        ("optim.lr={a:1}", "optim.lr={a:1}: '{'a': 1}' is no number"),
        ("data.task.lengths=[a]", "data.task.lengths=[a]: 'a' is no whole number"),
        ("optim.zzz=1", "there is no key optim.zzz: --help optim lists the keys"),
        ("data.task.options.pairs=4", "there is no key data.task.options.pairs yet: +KEY=VALUE"),
        ("model=none", "In 'config': Could not find 'model/none'. Available options in 'model': "),
        ("optim.lr=high", "optim.lr=high: 'high' is no number"),
        ("train.steps=1e3", "train.steps=1e3: '1e3' is no whole number"),
        ("logging.wandb=maybe", "logging.wandb=maybe: 'maybe' is neither true nor false"),
        ("engine.kind=zero", "engine.kind=zero: 'zero' is none of fsdp, ddp, deepspeed"),
        ("scores.lengths=64", "scores.lengths=64: it is a list: write it as [A,B]"),
        ("model.pattern=null", "model.pattern=null: null is no value of it"),
        ("resume=true", "resume=true: it is a section: set the keys in it"),
        ("optim.lr.x=1", "optim.lr.x=1: it holds a value and no keys"),
        ("optim.lr=1,2", "add -m to run one after the other, or write a list, KEY=[A,B]"),
        ("runs/default", "'runs/default' is no KEY=VALUE"),
        ("model.pattern=(GG)2", "quote brackets and commas: 'key=\"[AM]\"'"),
    ],
)
def test_mistakes_in_overrides_are_sentences(override: str, told: str) -> None:
    with pytest.raises(HydraException) as raised:
        config.compose([override])
    sentence = cli.sentence(raised.value)
    assert told in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("prepare mine.jsonl corpus/x", "say input=mine.jsonl out=corpus/x"),
        ("report runs/mine", "'runs/mine' is no KEY=VALUE: say run=runs/mine"),
        ("eval runs/mine lengths=[8]", "say checkpoint=runs/mine"),
        ("train mine", "'mine' is no KEY=VALUE: --help lists the keys"),
        ("train --steps 30", "there is no flag --steps: keys are KEY=VALUE, and --help lists them"),
    ],
)
def test_words_without_a_key_are_answered_with_one(
    words: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said, code = helped(*words.split(), monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert said.startswith("lmtrain: ")
    assert said.endswith(f"{told}\n")


@pytest.mark.parametrize(
    ("verb", "override", "told"),
    [
        ("inspect", "gpus=4", "there is no key gpus: --help lists the keys"),
        ("inspect", "node=4", "there is no key node: do you mean nodes?"),
        ("inspect", "worlds=4", "there is no key worlds: do you mean world?"),
        ("prepare", "mode=stat", "'stat' is none of build, verify, stats, peek, import, export"),
    ],
)
def test_mistakes_are_corrected_from_what_a_verb_takes(verb: str, override: str, told: str) -> None:
    with pytest.raises(HydraException) as raised:
        config.compose([override], cli.VERBS[verb].config)
    assert cli.sentence(raised.value).endswith(told)


@pytest.mark.parametrize(
    "text",
    ["def main(a, b):", 'say "hi"', "back\\slash\\", '\\" {x: [1]}', "(GG)2,[AM]", "$5", "\n"],
)
def test_texts_need_no_quotes_for_hydra(text: str) -> None:
    composed = config.compose([cli.quoted(f"prompt={text}")], "generate")
    assert composed.prompt == text


def test_paths_need_no_quotes_for_hydra() -> None:
    path = "c/größe (2), [neu]"
    keys = ["run.dir", "distill.teacher", "data.source", "+data.sources.a.path"]
    words = [f"{key}={path}" for key in keys]
    found = config.flat(config.compose(map(cli.quoted, [*words, f"+data.validation.b={path}"])))
    assert {found[key.lstrip("+")] for key in (*keys, "data.validation.b")} == {path}
    for verb, key in (("report", "run"), ("prepare", "input"), ("prepare", "out")):
        assert getattr(config.compose([cli.quoted(f"{key}={path}")], verb), key) == path


@pytest.mark.parametrize(
    "word", ["prompt='a'", "samples.prompt=null", "optim.lr=1,2", "run=[runs/a,runs/b]", "-m"]
)
def test_other_words_stay_as_they_are(word: str) -> None:
    assert cli.quoted(word) == word


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("model.pattern=GA,[AM],(GGGA)2", 'model.pattern=GA,"[AM]","(GGGA)2"'),
        ("model.pattern=GA,MA", "model.pattern=GA,MA"),
        ("model.pattern=choice(GA,MA)", "model.pattern=choice(GA,MA)"),
        ('model.pattern=GA,"[AM]"', 'model.pattern=GA,"[AM]"'),
        ("run.seed=range(0,2)", "run.seed=range(0,2)"),
    ],
)
def test_patterns_of_a_sweep_need_no_quotes_for_hydra(word: str, told: str) -> None:
    assert cli.choices_quoted(word) == told


def test_a_sweep_has_no_configuration_of_its_own_to_show() -> None:
    done = run("train", "-m", "optim.lr=1e-3,2e-3", "--cfg", "job")
    assert done.returncode != 0
    assert "Only one of --run, --multirun, --cfg" in done.stderr


def test_help_and_configuration_need_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['lmtrain', 'train', '--help']\n"
        "from lmtrain.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_a_mistake_exits_with_2_and_the_traceback_is_one_variable_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lmtrain", "generate", "tokens=0"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("lmtrain: 2 problems:\n- checkpoint is not set")
    monkeypatch.setattr(sys, "argv", ["lmtrain", "generate", "tokens=0"])
    monkeypatch.setenv("LMTRAIN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="2 problems"):
        cli.main()
