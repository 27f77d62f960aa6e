"""A bar when a person watches, a line when a file does."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextmanager
def progress(
    title: str, *, unit: str, total: int | None = None
) -> Generator[Callable[[int], None]]:
    """Gives a function to call with what was just done, in ``unit``; writes to standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(title, soft_wrap=True)
    done = TextColumn(f"{{task.completed:,.0f}} {unit}")
    columns = (TextColumn("{task.description}"), BarColumn(), done, TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)

        def advance(amount: int) -> None:
            bar.advance(task, amount)

        yield advance
