"""What a Parquet file of a table is made of: row groups, dictionaries, and the statistics that the log is told of them.

https://github.com/delta-io/delta/blob/master/PROTOCOL.md says what these are ("Per-file Statistics").
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS: Final = 65_536
GROUP_BYTES: Final = 64 * 2**20
"""Of a row group, in memory: what a reader of few keys reads at least."""
_LONGEST_STATISTIC = 256  # characters; the bounds of a longer text are shortened, but for a URI
_LONGEST_IN_FOOTER = 4096  # bytes; a column chunk with a longer bound is told to have none (WriterProperties of Arrow)
_VALUES_AT_ONCE = 4096  # that are encoded together: with the 1024 of Arrow, encoding takes a tenth longer
_DICTIONARY_BYTES = 2**20  # a dictionary that grows beyond is given up (the same)
_OFFSET = 4  # bytes a value of a text takes in memory beside itself, or beside a dictionary
_WIDTHS = {"BOOLEAN": 1, "BYTE_ARRAY": _OFFSET}  # bytes in memory; of every other type at most 8
_AFTER_SURROGATES = 0xE000


def texts_of_few_values(footer: Any, schema: pa.Schema) -> list[str]:
    """The flat texts of a file that take no more room than numbers and a dictionary do, but for the key.

    Read as dictionaries, and so written anew, they take a fraction of the time and of the memory.
    """
    import pyarrow as pa

    texts = {field.name for field in schema if pa.types.is_string(field.type)} - {"uri", "enrichment"}
    few = set(texts)
    for chunk in _chunks(footer):
        if chunk.total_uncompressed_size > max(_DICTIONARY_BYTES, _OFFSET * chunk.num_values):
            few.discard(chunk.path_in_schema)
    return sorted(few)


def rows_at_once(footer: Any) -> int:
    """How many rows of a file are about a row group in memory, by what its footer says."""
    most = GROUP_ROWS
    for group in map(footer.row_group, range(footer.num_row_groups)):
        size = sum(_bytes_in_memory(group.column(place)) for place in range(group.num_columns))
        most = min(most, GROUP_BYTES * group.num_rows // max(size, 1))
    return max(most, 1)


def _chunks(footer: Any) -> Iterator[Any]:
    for group in map(footer.row_group, range(footer.num_row_groups)):
        yield from map(group.column, range(group.num_columns))


def _bytes_in_memory(chunk: Any) -> int:
    width = _WIDTHS.get(chunk.physical_type, 8)
    return int(chunk.num_values * width + (chunk.total_uncompressed_size if chunk.physical_type == "BYTE_ARRAY" else 0))


@dataclass(frozen=True)
class FileContent:
    """A whole file, and its statistics as the log has them."""

    content: bytes
    statistics: dict[str, Any]


def contents(batches: Iterable[pa.RecordBatch], most_bytes: int) -> Iterator[FileContent]:
    """Rows as files of about so many bytes, one after the other."""
    import pyarrow.parquet as pq

    groups = row_groups(batches)
    for group in groups:
        buffer, footers, seen = io.BytesIO(), list[Any](), _Seen(group.schema)
        with pq.ParquetWriter(
            buffer,
            group.schema,
            compression="zstd",
            store_schema=False,
            write_batch_size=_VALUES_AT_ONCE,
            metadata_collector=footers,
        ) as writer:
            for part in chain([group], groups):
                writer.write_table(part, row_group_size=part.num_rows)
                seen.see(part)
                if buffer.tell() >= most_bytes:
                    break
        yield FileContent(buffer.getvalue(), _statistics(footers[0], seen))


def row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches put together until they are a row group."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        if waiting and (rows + batch.num_rows > GROUP_ROWS or size + batch.nbytes > GROUP_BYTES):
            yield _joined(waiting)
            waiting, rows, size = [], 0, 0
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
    if waiting:
        yield _joined(waiting)


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """One table, whose dictionaries are one a column and hold no value but those of its rows.

    A writer puts the whole of a dictionary into the file: what has been removed would stay there.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = pa.Table.from_batches(batches).combine_chunks()
    for place, column in enumerate(table.columns):
        if not pa.types.is_dictionary(column.type):
            continue
        values = column.combine_chunks()
        if len(values.dictionary) > pc.count_distinct(values.indices).as_py():
            again = values.dictionary_decode().dictionary_encode()
            table = table.set_column(place, table.field(place), again)
    return table


class _Seen:
    """What a file's footer does not tell of what is written: nulls of every flat column, and bounds of long texts."""

    def __init__(self, schema: pa.Schema) -> None:
        import pyarrow as pa

        self.nulls = {field.name: 0 for field in schema if not pa.types.is_nested(field.type)}
        self._texts = [field.name for field in schema if _is_text(field.type)]
        self.least: dict[str, str] = {}
        self.most: dict[str, str] = {}

    def see(self, rows: pa.Table) -> None:
        """Take in what is written; its dictionaries hold no value but those of its rows."""
        import pyarrow as pa
        import pyarrow.compute as pc

        for name in self.nulls:
            self.nulls[name] += rows[name].null_count
        for name in self._texts:
            for part in rows[name].chunks:
                texts = part.dictionary if pa.types.is_dictionary(part.type) else part
                if (pc.max(pc.binary_length(texts)).as_py() or 0) > _LONGEST_IN_FOOTER:
                    least, most = pc.min_max(texts).as_py().values()
                    self.least[name] = min(self.least.get(name, least), least)
                    self.most[name] = max(self.most.get(name, most), most)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _statistics(footer: Any, seen: _Seen) -> dict[str, Any]:
    """A file's statistics as the log has them; of what is nested there are none.

    Every flat column that holds a value has bounds, those of long texts shortened: readers skip a whole file whose
    entry has bounds, and none of the column that they ask for.
    """
    least: dict[str, Any] = dict(seen.least)
    most: dict[str, Any] = dict(seen.most)
    for chunk in _chunks(footer):
        name, told = chunk.path_in_schema, chunk.statistics
        if name in seen.nulls and told is not None and told.has_min_max:
            least[name] = min(least.get(name, told.min), told.min)
            most[name] = max(most.get(name, told.max), told.max)
    return {
        "numRecords": footer.num_rows,
        "minValues": {name: _as_json(_below(name, bound)) for name, bound in least.items()},
        "maxValues": {name: _as_json(_above(name, bound)) for name, bound in most.items()},
        "nullCount": seen.nulls,
    }


def _below(name: str, bound: Any) -> Any:
    """A bound that is not above this one; a text of at most `_LONGEST_STATISTIC` characters but for a URI."""
    return bound[:_LONGEST_STATISTIC] if isinstance(bound, str) and name != "uri" else bound


def _above(name: str, bound: Any) -> Any:
    """A bound that is not below this one; a text of at most so many characters, where there is one."""
    if not isinstance(bound, str) or name == "uri" or len(bound) <= _LONGEST_STATISTIC:
        return bound
    for length in range(_LONGEST_STATISTIC, 0, -1):
        code = ord(bound[length - 1]) + 1
        if code <= sys.maxunicode:
            return bound[: length - 1] + chr(_AFTER_SURROGATES if 0xD800 <= code < _AFTER_SURROGATES else code)
    return bound


def _as_json(bound: Any) -> Any:
    if isinstance(bound, datetime):
        return f"{bound.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
    if isinstance(bound, float) and not math.isfinite(bound):
        return math.copysign(sys.float_info.max, bound)  # JSON has no greater one
    return bound
