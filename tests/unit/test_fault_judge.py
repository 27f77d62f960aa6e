"""Which losses are faults, and what is remembered of them."""

from __future__ import annotations

import json
from math import inf, nan

import pytest

from lmtrain.config import compose
from lmtrain.settings.faults import FaultPolicy, FaultsSection
from lmtrain.train.faults import Faults
from lmtrain.train.launch import launch

SKIP = FaultsSection(policy=FaultPolicy.skip, spike=2.0, window=3)


def test_a_loss_that_is_no_number_is_a_fault() -> None:
    faults = Faults(FaultsSection(), {})
    assert [bool(faults.judge(loss)) for loss in (1.0, nan, inf, -inf)] == [False, True, True, True]


def test_a_spike_is_known_by_the_median_once_there_are_enough_losses() -> None:
    faults = Faults(SKIP, {})
    for loss in (1.0, 50.0, 2.0):
        assert not faults.judge(loss)
        faults.accept(loss)
    assert not faults.judge(4.0)  # twice the median itself
    assert faults.judge(4.01) == "the loss is 4.010, more than 2 times the median 2.000"
    faults.accept(1.0)
    faults.accept(1.0)  # 2, 1, 1: the 50 is too long ago
    assert faults.judge(2.1)
    assert not Faults(FaultsSection(window=1), {"losses": [1.0]}).judge(1e9)


def test_what_is_remembered_survives_json() -> None:
    faults = Faults(SKIP, {})
    for loss in (1 / 3, 2 / 3, 0.1, 0.7):
        faults.accept(loss)
    faults.note(4, "bad")
    again = Faults(SKIP, json.loads(json.dumps(faults.memory)))
    assert again.memory == faults.memory
    assert again.memory["losses"] == [2 / 3, 0.1, 0.7]
    assert again.count == 1


def test_going_back_forgets_losses_and_keeps_faults() -> None:
    faults = Faults(SKIP, {})
    faults.accept(9.0)
    faults.note(2, "bad")
    faults.restore({"losses": [1.0], "steps": []})
    assert faults.memory == {"losses": [1.0], "steps": [2.0]}


def test_only_recent_faults_count_against_the_limit() -> None:
    faults = Faults(FaultsSection(policy=FaultPolicy.skip, limit=2), {})
    faults.note(1, "bad")
    faults.note(101, "bad")  # the first lies 100 steps back
    with pytest.raises(ValueError, match=r"step 200: bad: 2 faults in 100 steps are too many"):
        faults.note(200, "bad")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("faults.spike=1.0", "faults.spike=1 calls usual losses faults"),
        ("faults.limit=0", "faults.limit=0"),
        ("faults.window=0", "faults.window=0"),
        ("checkpoint.keep_every=150", "checkpoint.keep_every=150 meets no checkpoint"),
        ("launch.restarts=-1", "launch.restarts=-1 is negative"),
        ("launch.grace_seconds=0", "launch.grace_seconds=0 must be positive and finite"),
        ("launch.requeue_code=256", "launch.requeue_code=256 is no exit code"),
        ("launch.timeout_seconds=0", "launch.timeout_seconds=0"),
    ],
)
def test_bad_settings_are_refused(override: str, words: str) -> None:
    [problem] = compose([override]).check(1)
    assert words in problem


def test_going_back_needs_checkpoints() -> None:
    [problem] = compose(["faults.policy=rollback", "checkpoint.every=null"]).check(1)
    assert "has no checkpoint to go back to with checkpoint.every=null" in problem


def test_a_launcher_that_would_mix_up_addresses_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    words = "max-restarts=3 .* TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
    with pytest.raises(ValueError, match=words):
        launch(compose([]))
