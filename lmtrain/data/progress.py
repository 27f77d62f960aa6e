"""A bar when a person watches, a line when a file does."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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


@contextmanager
def token_progress(title: str, *, total: int, done: int) -> Generator[Callable[[int, int], None]]:
    """Gives a function to call with the bytes and tokens that were just done.

    A bar goes by the bytes, from ``done`` to ``total``, and tells tokens per second and the time
    that is left; without a terminal there is a line at the beginning and one at the end.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(title, soft_wrap=True)
    began, tokens = time.perf_counter(), 0

    def rate() -> str:
        return f"{tokens:,} tokens, {tokens / (time.perf_counter() - began):,.0f} a second"

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"))
    bar = Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )
    with bar:
        task = bar.add_task(title, total=total, completed=done, rate="")

        def advance(more_bytes: int, more_tokens: int) -> None:
            nonlocal tokens
            tokens += more_tokens
            bar.update(task, advance=more_bytes, rate=rate())

        yield advance
    if not console.is_terminal:
        console.print(rate(), soft_wrap=True, highlight=False)
