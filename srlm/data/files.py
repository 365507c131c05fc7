"""Rows of a data file: JSON, JSON Lines, CSV, TSV, Parquet, Arrow or text, plain or compressed.

What a file is follows from its first bytes. Only CSV, TSV and text, which have no such mark, are known by their names.
JSON and CSV are parsed here and not by `datasets`, which would guess a type for each column ("007" becomes 7, and the
answer "None" becomes null), and which cannot say in which line a mistake is.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from srlm.data.rows import without_nan
from srlm.errors import SeedError


class Place(NamedTuple):
    """Where a row is."""

    file: str  # a file's name, in a folder its path in the folder, or OWNER/NAME on the Hub
    line: int  # the row's first line, from 1; in tables (Parquet, Arrow, columns in JSON, the Hub) its number, from 0
    item: int = 0  # of several rows that begin in the same line

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f" (row {self.item + 1} of the line)" if self.item else "")

    @property
    def id(self) -> str:
        """An id for a row that has none: FILE_STEM-NNNNN."""
        return f"{stem(self.file.rpartition('/')[2])}-{self.line:05d}" + (f"-{self.item}" if self.item else "")


Rows = Iterator[tuple[Place, Any]]
PACKED = (".gz", ".zst", ".xz", ".bz2", ".zip")
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_TEXT = (".txt", ".text")
_JSON = (".json", ".jsonl", ".ndjson")
EXTENSIONS = (*_JSON, *_DELIMITERS, *_TEXT, ".parquet", ".arrow")
_WRAPPERS = ("data", "rows", "train", "examples", "samples", "items", "records", "dataset")  # {"data": [row, ...]}
_REFUSED: tuple[tuple[int, bytes, str], ...] = (  # offset, bytes there, and what it is with the remedy
    (0, b"version https://git-lfs", "a Git LFS pointer instead of the data. Download the data with `git lfs pull`"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive. Unpack it, and set `path` to the file or folder"),
    (257, b"ustar", "a tar archive. Unpack it, and set `path` to the file or folder"),
    (0, b"Rar!", "a RAR archive. Unpack it, and set `path` to the file or folder"),
    (0, b"SQLite format 3", "an SQLite database. Export the table as CSV or JSON Lines"),
    (0, b"\x80\x04", "a Python pickle, which could run code. Save the data as JSON Lines or Parquet"),
    (0, b"\x80\x05", "a Python pickle, which could run code. Save the data as JSON Lines or Parquet"),
    (0, b"%PDF", "a PDF. Save its rows as JSON Lines"),
    (0, b"<!DOCTYPE", "a web page instead of data. Download the raw file"),
    (0, b"<html", "a web page instead of data. Download the raw file"),
)
_CANNOT_BE_READ = (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
_DECODER = json.JSONDecoder(parse_constant=lambda name: None if name == "NaN" else float(name))  # NaN: from pandas


def stem(name: str) -> str:
    """Return a file's name without the extensions of its kind and of its compression."""
    for endings in (PACKED, EXTENSIONS):
        name = next((name.removesuffix(ending) for ending in endings if name.endswith(ending)), name)
    return name


def read_file(file: Path | Traversable, name: str) -> Rows:
    """Yield each row of a file with its place; `name` stands for the file there and in errors.

    A zip archive must contain one data file. Blank lines are skipped. NaN is null.

    Raises
    ------
    SeedError
        If there is no such file, or it is of another kind, incomplete or invalid.
    """
    try:
        kind, data = _unpacked(file.read_bytes(), name)
    except FileNotFoundError as error:
        raise SeedError(f"{name}: no such file. Set `path` to a file, a folder, builtin or hub:OWNER/NAME.") from error
    except _CANNOT_BE_READ as error:
        raise SeedError(
            f"{name}: cannot be read ({error or type(error).__name__}). The file is incomplete or damaged: download it "
            "again."
        ) from error
    if data.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        return _table(data, name)
    for at, mark, problem in _REFUSED:
        if data[at : at + len(mark)] == mark:
            raise SeedError(f"{name} is {problem}.")
    if kind in (".yaml", ".yml", ".toml", ".xml"):
        raise SeedError(f"{name} is {kind[1:].upper()}. Save the rows as JSON Lines, one JSON object per line.")
    text = _decoded(data, name)
    if kind in _DELIMITERS:
        return _csv(text, _DELIMITERS[kind], name)
    if kind in _TEXT and not text.lstrip().startswith(("{", "[")):
        return _lines(text, name)
    return read_json(text, name)


def _unpacked(data: bytes, name: str) -> tuple[str, bytes]:
    """Return the extension and the content of a file, decompressed."""
    inner = name
    while unpack := next((unpack for mark, unpack in _UNPACKERS.items() if data.startswith(mark)), None):
        inner, data = unpack(data, inner, name)
    return PurePosixPath(inner.lower()).suffix, data


def _unzipped(data: bytes, inner: str, name: str) -> tuple[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [one.filename for one in archive.infolist() if not one.is_dir()]
        if any(one.startswith("xl/") for one in names):
            raise SeedError(f"{name} is an Excel workbook. Save the sheet as CSV (UTF-8).")
        files = [one for one in names if not any(part.startswith((".", "__MACOSX")) for part in one.split("/"))]
        if len(files) != 1:
            found = ", ".join(files[:5]) or "none"
            raise SeedError(f"{name} contains {len(files)} files ({found}). Unzip it, and set `path` to one file.")
        return files[0], archive.read(files[0])


def _zstd(data: bytes) -> bytes:
    import pyarrow as pa  # here, because it takes a second and few files need it

    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        return bytes(stream.read())


def _by(unpack: Callable[[bytes], bytes]) -> Callable[[bytes, str, str], tuple[str, bytes]]:
    return lambda data, inner, _: (_without(inner, PACKED), unpack(data))


def _without(name: str, endings: tuple[str, ...]) -> str:
    return next((name[: -len(ending)] for ending in endings if name.lower().endswith(ending)), name)


_UNPACKERS: dict[bytes, Callable[[bytes, str, str], tuple[str, bytes]]] = {
    b"\x1f\x8b": _by(gzip.decompress),
    b"BZh": _by(bz2.decompress),
    b"\xfd7zXZ\x00": _by(lzma.decompress),
    b"\x28\xb5\x2f\xfd": _by(_zstd),
    b"PK\x03\x04": _unzipped,
    b"PK\x05\x06": _unzipped,  # an empty archive
}


def _decoded(data: bytes, name: str) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 by their byte order mark; other encodings cannot be told from each other."""
    marks = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    encoding = next((marks[mark] for mark in marks if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"byte {error.start} (0x{data[error.start]:02x}) is not {encoding.upper()}"
        remedy = f"If it is text in another encoding, convert it: iconv -f ENCODING -t UTF-8 {name}"
        raise SeedError(f"{name}:{line}: {problem}. {remedy}.") from error


def _table(data: bytes, name: str) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    source = pa.BufferReader(data)
    try:
        if data.startswith(b"PAR1"):
            table = parquet.read_table(source)
        else:
            table = (pa.ipc.open_file if data.startswith(b"ARROW1") else pa.ipc.open_stream)(source).read_all()
    except (pa.ArrowException, OSError) as error:
        kind = "Parquet" if data.startswith(b"PAR1") else "Arrow"
        raise SeedError(
            f"{name}: this {kind} file cannot be read ({error}). It is incomplete or damaged: download it again."
        ) from error
    start = 0
    for batch in table.to_batches():
        yield from ((Place(name, row), without_nan(data)) for row, data in enumerate(batch.to_pylist(), start))
        start += len(batch)


def _lines(text: str, name: str) -> Rows:
    for number, line in enumerate(re.split("\r\n|\r|\n", text), 1):
        if line.strip():
            yield Place(name, number), {"text": line}


def _csv(text: str, delimiter: str, name: str) -> Rows:
    """Yield rows as texts; an empty cell is null. Semicolons and tabs separate cells if the header has no comma."""
    first = text.lstrip("\r\n").partition("\n")[0]
    if delimiter == "," and "," not in first:
        delimiter = next((other for other in ";\t" if other in first), ",")
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header) or not all(header):
                    remedy = "Give each column a name of its own in the first row"
                    raise SeedError(f"{name}:{line}: the columns are {', '.join(map(repr, header))}. {remedy}.")
            elif len(cells) != len(header):
                problem = f"the row has {len(cells)} cells, and the header has {len(header)}"
                remedy = f"Put cells with {delimiter!r} or line breaks in double quotes"
                raise SeedError(f"{name}:{line}: {problem}. {remedy}.")
            else:
                yield Place(name, line), {key: cell or None for key, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise SeedError(f"{name}:{start}: not CSV ({error}). Check the double quotes, also those before.") from error


def read_json(text: str, name: str) -> Rows:
    """Yield the rows of JSON Lines, JSON objects one after the other, an array, or an object with an array or columns.

    The rows of {"data": [...]} are those of the array, also under a few other usual names. The rows of columns are
    those of {"prompt": [...], "response": [...]}, or of what pandas writes, {"prompt": {"0": ...}, ...}.
    """
    text = text.rstrip()
    first = text.lstrip().partition("\n")[0]
    if not first.startswith("[") and _is_json(first):
        lines = [(n, line) for n, line in enumerate(re.split("\r\n|\r|\n", text), 1) if line.strip()]
        if len(lines) > 1 and "\r" not in first.rstrip("\r"):  # one value per line, so errors are in one line
            yield from ((Place(name, n), _parsed(line, name, n)) for n, line in lines)
            return
    values = list(_values(text, 0, name))
    if len(values) != 1:
        yield from values
        return
    [(place, value)] = values
    if isinstance(value, list):
        yield from _values(text, text.index("[") + 1, name)
    elif isinstance(value, dict) and (at := _wrapped(text, value)):
        yield from _values(text, at, name)
    elif isinstance(value, dict) and (columns := _columns(value)):
        for row, cells in enumerate(zip(*columns.values(), strict=True)):
            yield Place(name, row), dict(zip(columns, cells, strict=True))
    else:
        yield place, value


def _is_json(line: str) -> bool:
    try:
        _DECODER.decode(line.strip())
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(line: str, name: str, number: int) -> Any:
    try:
        return _DECODER.decode(line.strip())
    except (ValueError, RecursionError) as error:
        raise _not_json(error, name, number) from error


def _not_json(error: Exception, name: str, number: int) -> SeedError:
    number += getattr(error, "lineno", 1) - 1
    problem = f"not JSON ({getattr(error, 'msg', error)}, column {getattr(error, 'colno', 1)})"
    remedy = "Fix it: a file contains one JSON object per line, or one JSON array"
    return SeedError(f"{name}:{number}: {problem}. {remedy}.")


def _values(text: str, at: int, name: str) -> Rows:
    """Yield the JSON values from position `at` on, up to the end of the text or of the array whose inside that is."""
    inside = at > 0
    counted, line, item = 0, 1, -1
    while at < len(text):
        if text[at] in (" \t\r\n," if inside else " \t\r\n"):
            at += 1
            continue
        if inside and text[at] == "]":
            return
        breaks, counted = _line_breaks(text, counted, at), at
        line, item = line + breaks, 0 if breaks else item + 1
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            at_line = 1 if isinstance(error, json.JSONDecodeError) else line  # its line counts from the beginning
            raise _not_json(error, name, at_line) from error
        yield Place(name, line, item), value


def _line_breaks(text: str, start: int, end: int) -> int:
    return text.count("\n", start, end) or text.count("\r", start, end)


def _wrapped(text: str, value: dict[str, Any]) -> int:
    """Return the position in an object's text where the array with the rows begins; 0 if it has none."""
    name = next((name for name in _WRAPPERS if isinstance(value.get(name), list)), "")
    if not name or not all(isinstance(row, dict) for row in value[name]):
        return 0
    for match in re.finditer(rf'"{name}"\s*:\s*\[', text):
        if _DECODER.raw_decode(text, match.end() - 1)[0] == value[name]:
            return match.end()
    return 0


def _columns(value: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the columns of an object whose fields are lists of one length, or objects with the same keys."""
    cells = list(value.values())
    if len(cells) > 1 and all(isinstance(column, dict) and column.keys() == cells[0].keys() for column in cells):
        return {name: list(column.values()) for name, column in value.items()}
    if not all(isinstance(column, list) for column in cells) or len({len(column) for column in cells}) != 1:
        return {}
    texts = any(column and all(isinstance(cell, str) for cell in column) for column in cells)
    return value if texts and len(cells) > 1 else {}
