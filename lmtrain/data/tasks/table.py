"""The tasks by name, as configurations and reports call them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.data.tasks.copying import Copy, SelectiveCopy, Sort
from lmtrain.data.tasks.languages import RegularLanguages
from lmtrain.data.tasks.recall import Induction, KeyValue, Mqar, Needles
from lmtrain.data.tasks.states import WordProblem

if TYPE_CHECKING:
    from lmtrain.data.tasks.task import Task

TASKS: dict[str, Task] = {
    "mqar": Mqar(),
    "key_value": KeyValue(),
    "passkey": Needles(),
    "needles": Needles(needles=4),
    "induction": Induction(),
    "copy": Copy(),
    "selective_copy": SelectiveCopy(),
    "sort": Sort(),
    "parity": WordProblem(group="Z2"),
    "count": WordProblem(group="Z7"),
    "a5": WordProblem(group="A5"),
    "s5": WordProblem(group="S5"),
    "languages": RegularLanguages(),
}
"""At the sizes that the papers they come from begin with."""
