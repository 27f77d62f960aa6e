"""No number of a configuration may be nan or infinite: both slip through comparisons."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from math import inf, nan
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest

from lmtrain.config import InspectConfig, RunConfig
from lmtrain.settings.findings import Claim
from lmtrain.settings.generate import GenerateConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUN, INSPECT, GENERATE = RunConfig(), InspectConfig(), GenerateConfig(checkpoint="runs/a")
CLAIM = Claim(says="less is less", measure="loss", than=1.0)


def numbers(section: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys whose values are numbers with a point."""
    hints = get_type_hints(type(section))
    for each in fields(section):
        value, key = getattr(section, each.name), f"{prefix}{each.name}"
        if is_dataclass(value):
            yield from numbers(value, f"{key}.")
        elif hints[each.name] in (float, float | None):
            yield key


def but(section: Any, key: str, value: float) -> Any:
    """The same with another value of a dotted key."""
    name, _, rest = key.partition(".")
    return replace(section, **{name: but(getattr(section, name), rest, value) if rest else value})


CASES: list[tuple[str, Any, Callable[[Any], list[str]]]] = [
    *((key, RUN, lambda config: config.check(1)) for key in numbers(RUN)),
    *((key, GENERATE, lambda config: config.check()) for key in numbers(GENERATE)),
    ("memory", INSPECT, lambda config: config.check_hardware()),
    *((key, CLAIM, lambda claim: claim.check("findings[0]")) for key in ("times", "by", "than")),
]


@pytest.mark.parametrize("value", [nan, inf])
@pytest.mark.parametrize(("key", "config", "check"), CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(
    key: str, config: Any, check: Callable[[Any], list[str]], value: float
) -> None:
    assert check(config) == []
    assert any(key.rpartition(".")[2] in problem for problem in check(but(config, key, value)))
