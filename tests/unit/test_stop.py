"""Signals become a wish."""

from __future__ import annotations

import signal

import pytest

from lmtrain.settings.launch import LaunchSection
from lmtrain.train.stop import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered_and_the_second_insists(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest(LaunchSection(), insist=True) as stop:
        assert stop.signal is None
        signal.raise_signal(number)
        assert stop.signal == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_under_a_launcher_signals_repeat_without_harm() -> None:
    with StopRequest(LaunchSection(), insist=False) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGINT


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest(LaunchSection(), insist=True) as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.signal is None
    finally:
        signal.signal(signal.SIGINT, before)
