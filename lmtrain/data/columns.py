"""One column of a table on disk: parquet by row groups, Arrow streams by batches."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

BATCH_ROWS = 256
BATCH_BYTES = 1 << 25


def parquet_groups(path: Path, field: str) -> list[tuple[int, int]]:
    """Rows and bytes of the column ``field`` in each row group.

    Raises:
        ValueError: the file is no parquet file, or has no such column.
    """
    with _parquet(path) as table:
        _check_column(path, field, table.schema_arrow.names)
        groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
        return [(group.num_rows, _column_bytes(group, field)) for group in groups]


def read_parquet(path: Path, field: str, start: int, stop: int | None) -> Iterator[object]:
    """The values of the column in the row groups ``[start, stop)``.

    Raises:
        ValueError: the file is damaged.
    """
    with _parquet(path) as table:
        groups = list(range(start, table.num_row_groups if stop is None else stop))
        rows = _batch_rows([table.metadata.row_group(i) for i in groups], field)
        batches = table.iter_batches(rows, row_groups=groups, columns=[field], use_threads=False)
        for batch in batches:
            yield from (value.as_py() for value in batch.column(0))


def arrow_rows(path: Path, field: str) -> list[tuple[int, int]]:
    """Rows and bytes of each batch of an Arrow stream, as ``datasets`` writes them.

    Raises:
        ValueError: the file is no Arrow stream, or has no such column.
    """
    with _arrow(path) as stream:
        _check_column(path, field, stream.schema.names)
        rows = [batch.num_rows for batch in stream]
    total = max(1, sum(rows))
    size = path.stat().st_size
    return [(count, size * count // total) for count in rows]


def read_arrow(path: Path, field: str, start: int, stop: int | None) -> Iterator[object]:
    """The values of the column in the batches ``[start, stop)``.

    Raises:
        ValueError: the file is damaged.
    """
    with _arrow(path) as stream:
        for batch in islice(stream, start, stop):
            yield from (value.as_py() for value in batch.column(field))


def _batch_rows(groups: list[Any], field: str) -> int:
    """Rows that are about ``BATCH_BYTES`` together."""
    size = sum(_column_bytes(group, field) for group in groups)
    rows = sum(group.num_rows for group in groups)
    return max(1, min(BATCH_ROWS, BATCH_BYTES * rows // max(1, size)))


def _column_bytes(group: Any, field: str) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.partition(".")[0] == field
    )


def _check_column(path: Path, field: str, names: list[str]) -> None:
    if field not in names:
        raise ValueError(f"field={field} is no column of {path}: choose one of {', '.join(names)}")


@contextmanager
def _parquet(path: Path) -> Generator[Any]:
    arrow: Any = import_module("pyarrow")  # it has no types
    try:
        with import_module("pyarrow.parquet").ParquetFile(path) as table:
            yield table
    except arrow.ArrowException as error:
        raise ValueError(f"{path} is no parquet file ({error}): mend it or leave it out") from error


@contextmanager
def _arrow(path: Path) -> Generator[Any]:
    arrow: Any = import_module("pyarrow")
    try:
        with arrow.memory_map(str(path)) as file, arrow.ipc.open_stream(file) as stream:
            yield stream
    except arrow.ArrowException as error:
        raise ValueError(f"{path} is no Arrow file ({error}): mend it or leave it out") from error
