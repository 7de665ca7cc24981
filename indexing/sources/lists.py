"""Lists of pictures: a CSV or Parquet file with an address in each row, and words in its other columns.

A row is its picture's version. While it stays as it is, its picture is not fetched again, because asking a million
servers whether anything has changed takes as long as fetching; who knows that a picture is another one behind the same
address changes a column of its row, `version` for example. Signatures in addresses are not part of a row.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar, Final

from engine.errors import SourceError
from engine.settings import Settings
from indexing.decode import Reason
from indexing.sources import addresses, sidecars
from indexing.sources.folder import is_utf8, printable
from indexing.sources.items import UNKNOWN_SIZE, Problem
from indexing.sources.listing import Entry, Listing, Part
from indexing.sources.remote import RemoteSource, as_json

SUFFIXES: Final = (".csv", ".parquet")
BAD_ROW: Final = "bad_row"
"""The reason of a `Problem` whose row is left out."""
_ADDRESS_COLUMNS: Final = ("url", "image_url", "path")
_KEY_COLUMNS: Final = ("id", "key")
_ROWS_AT_ONCE: Final = 1000
_KIND: Final = "row"

Row = dict[str, Any]


class ListSource(RemoteSource):
    """The pictures that a list names: in its folder, on the web, in stores, and, if it is local, on this machine."""

    in_one_place: ClassVar[bool] = False

    def __init__(self, address: str, settings: Settings) -> None:
        super().__init__(addresses.redact(address), settings)
        self._address = address
        self._home = addresses.home_of(address)

    def _fill(self, listing: Listing) -> Iterable[Problem]:
        with ExitStack() as stack:
            if addresses.is_address(self._address):
                file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
                self._stores.wait(self._stores.save(self._address, file))
                file.seek(0)
            else:
                try:
                    file = stack.enter_context(Path(self._address).open("rb"))
                except OSError as error:
                    raise SourceError(f"{self.name} can't be read: {error.strerror}. Check the path.") from error
            parquet = addresses.file_name(self._address).lower().endswith(".parquet")
            rows = enumerate(_parquet_rows(file, self.name) if parquet else _csv_rows(file, self.name), start=1)
            problems: list[Problem] = []
            while batch := list(islice(rows, _ROWS_AT_ONCE)):
                self._add(listing, batch, problems)
            return problems

    def _add(self, listing: Listing, rows: Sequence[tuple[int, Row]], problems: list[Problem]) -> None:
        for number, row in rows:
            key = ""
            try:
                entry, words = self._entry(row)
                key = entry.key
                if listing.entry(key):
                    raise ValueError("Another row has the same key.")  # noqa: TRY301 - one of several faults of a row
            except ValueError as error:
                problems.append(Problem(key or f"row {number}", BAD_ROW, f"Row {number} is left out: {error}"))
                continue
            except OSError as error:
                problems.append(Problem(key or f"row {number}", Reason.UNREADABLE, f"Row {number}: {error.strerror}."))
                continue
            listing.add([entry])
            listing.add_words([Part(key, _KIND, data=words)])

    def _entry(self, row: Row) -> tuple[Entry, bytes]:
        """A row's picture and words. Raises `ValueError` with a sentence, or `OSError` for a local file."""
        columns = {name.lower(): name for name in reversed(row)}
        named = [columns[name] for name in _ADDRESS_COLUMNS if name in columns]
        keyed = [columns[name] for name in _KEY_COLUMNS if name in columns]
        address = row[named[0]]
        if not isinstance(address, str) or not address.strip():
            raise ValueError("It has no address.")
        target = addresses.permitted(address.strip(), self._home)
        path = addresses.redact(target)
        key = str(row[keyed[0]]) if keyed and row[keyed[0]] not in (None, "") else addresses.redact(address.strip())
        if not is_utf8(key) or not is_utf8(path):
            raise ValueError(f"{printable(key)}: {Reason.BAD_NAME.sentence}")
        left_out = {named[0], *keyed[:1]}
        words = {
            name: addresses.redact(value) if isinstance(value, str) else value
            for name, value in row.items()
            if name not in left_out and value is not None and value != "" and not isinstance(value, bytes)
        }
        data = as_json(words)
        if len(data) > sidecars.LIMIT:
            raise ValueError(f"Its columns have more than {sidecars.LIMIT} bytes.")
        if addresses.is_address(target):
            return Entry(key, path, target, 0, UNKNOWN_SIZE, 0, ""), data
        about = Path(target).stat()
        return Entry(key, target, "", 0, about.st_size, about.st_mtime_ns, "", remote=False), data

    def _parts(self, listing: Listing, key: str) -> Sequence[Part]:
        return listing.words(key)


def _csv_rows(file: IO[bytes], name: str) -> Iterator[Row]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader = csv.DictReader(text, restkey="", strict=True)
    try:
        _require_address(reader.fieldnames or (), name)
        for row in reader:
            row.pop("", None)
            yield row
    except (csv.Error, UnicodeDecodeError) as error:
        raise SourceError(
            f"{name} is not well-formed CSV in UTF-8 near line {reader.line_num}: {error}. Mend it, or write Parquet."
        ) from error
    finally:
        text.detach()


def _parquet_rows(file: IO[bytes], name: str) -> Iterator[Row]:
    import pyarrow as pa  # noqa: PLC0415 - half a second, only for Parquet
    from pyarrow import parquet  # noqa: PLC0415 - the same

    try:
        table = parquet.ParquetFile(file)
        _require_address(table.schema_arrow.names, name)
        for batch in table.iter_batches(_ROWS_AT_ONCE):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{name} is not well-formed Parquet: {error}. Write it again.") from error


def _require_address(columns: Iterable[str], name: str) -> None:
    if not {column.lower() for column in columns if column} & set(_ADDRESS_COLUMNS):
        raise SourceError(
            f"{name} has no column named {', '.join(_ADDRESS_COLUMNS[:-1])} or {_ADDRESS_COLUMNS[-1]}. Name the column "
            "with the pictures' addresses so."
        )
