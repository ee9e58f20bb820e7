"""Columns of an Arrow or Parquet file as arrays, after comparing what they take with what the file can tell of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.columns import Array
from data.readers import ReadError
from data.readers.bounded import MOST_BYTES, check_size, regular

MOST_ROWS = 1 << 26
NEEDS = "reading Parquet and Arrow needs the package pyarrow: pip install pyarrow"


class Table:
    """The rows of a file; `size` is its size in bytes."""

    def __init__(self, table: Any, size: int) -> None:
        self._table, self.size = table, size

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def names(self, key: str) -> list[str]:
        """The names in a nested column, none where there is no such column."""
        if key not in self._table.column_names:
            return []
        kind = self._table.schema.field(key).type
        return [kind.field(i).name for i in range(kind.num_fields)]

    def array(self, path: Sequence[str]) -> Any:
        """A column, or what lies in a nested one, as one pyarrow array. Raises ReadError where there is none."""
        import pyarrow

        if path[0] not in self._table.column_names:
            known = ", ".join(self._table.column_names[:12])
            raise ReadError(f"no column {path[0]}; there are {known}")
        found = self._table.column(path[0]).combine_chunks()
        if isinstance(found, pyarrow.ChunkedArray):
            found = found.chunk(0) if found.num_chunks else pyarrow.array([], found.type)
        for depth, name in enumerate(path[1:], 1):
            if not pyarrow.types.is_struct(found.type) or found.type.get_field_index(name) < 0:
                raise ReadError(f"no column {'.'.join(path[: depth + 1])}")
            found = found.field(found.type.get_field_index(name))
        return found

    def contents(self, path: Sequence[str], begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes in rows of a column of them. Raises ReadError where it holds something else."""
        import pyarrow

        found = self.array(path)
        if not (pyarrow.types.is_binary(found.type) or pyarrow.types.is_large_binary(found.type)):
            raise ReadError(f"{'.'.join(path)}: found {found.type}, expected the bytes of pictures")
        return (value.as_py() or b"" for value in found[begin:end])


@contextlib.contextmanager
def opened(path: Path, columns: Sequence[str] | None = None) -> Iterator[Table]:
    """The table in a Parquet or Arrow file. Raises ReadError for what is none, and for damage.

    columns: the only ones that are read, of those that there are.
    """
    regular(path)
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ReadError(f"{path}: {NEEDS}") from error
    try:
        if path.suffix == ".parquet":
            table = _parquet(pyarrow.parquet, path, columns)
        else:
            with pyarrow.OSFile(str(path)) as raw, pyarrow.ipc.open_file(raw) as file:
                table = file.read_all()
            check_size(str(path), table.nbytes, path.stat().st_size)
        table.validate(full=True)
        yield Table(table, path.stat().st_size)
    except (pyarrow.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise ReadError(f"{path}: not a whole file of its format ({' '.join(str(error).split())[:200]})") from error


def _parquet(parquet: Any, path: Path, columns: Sequence[str] | None) -> Any:
    """The columns of a Parquet file, of whose sizes its outline tells before anything is unpacked."""
    with parquet.ParquetFile(path, memory_map=False) as file:
        meta, needed = file.metadata, 0
        if meta.num_rows > MOST_ROWS:
            raise ReadError(f"{path}: found {meta.num_rows} rows, expected at most {MOST_ROWS}")
        wanted = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
        for group in range(meta.num_row_groups):
            for i in range(meta.num_columns):
                part = meta.row_group(group).column(i)
                if wanted is None or part.path_in_schema.split(".")[0] in wanted:
                    needed += max(part.total_uncompressed_size, 8 * part.num_values)
        if needed > MOST_BYTES:
            raise ReadError(f"{path}: found {needed} bytes told of, expected at most {MOST_BYTES}")
        return file.read(columns=wanted, use_threads=False)


def column(table: Table, path: Sequence[str]) -> Array:
    """A column of numbers, or of lists of as many numbers each, as an array [rows, ...]. Raises ReadError."""
    import pyarrow

    found, shape, key = table.array(path), [len(table)], ".".join(path)
    while pyarrow.types.is_nested(found.type):
        kind = found.type
        if pyarrow.types.is_fixed_size_list(kind):
            size, inner = kind.list_size, found.flatten()
        elif pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
            lengths = np.diff(np.asarray(found.offsets))
            size, inner = int(lengths[0]) if len(lengths) else 0, found.flatten()
            if len(lengths) and (lengths != size).any():
                raise ReadError(
                    f"{key}: found lists of {lengths.min()} to {lengths.max()} numbers, expected one length"
                )
        else:
            raise ReadError(f"{key}: found {kind}, expected numbers")
        found, shape = inner, [*shape, size]
    if found.null_count or not (
        pyarrow.types.is_integer(found.type)
        or pyarrow.types.is_floating(found.type)
        or pyarrow.types.is_boolean(found.type)
    ):
        missing = f"{found.null_count} rows without a value" if found.null_count else str(found.type)
        raise ReadError(f"{key}: found {missing}, expected numbers")
    values: Array = found.to_numpy(zero_copy_only=False)
    if values.size != int(np.prod(shape)):
        raise ReadError(f"{key}: found {values.size} numbers, expected {shape}")
    return values.reshape(shape)
