"""Tables and arrays as the bytes of files: the same bytes for the same values.

Tables are tab-separated text with BIDS's `n/a` for what is missing, arrays are .npz without pickle.
"""

import io
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from featvis_jax.results.anatomy import MapRecord, RegionRecord, ScanRecord
from featvis_jax.results.tables import LayerRecord, ReferenceRecord, UnitRecord
from featvis_jax.results.trust import TrustRecord

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_Record = TypeVar(
    "_Record",
    UnitRecord,
    LayerRecord,
    ReferenceRecord,
    TrustRecord,
    RegionRecord,
    MapRecord,
    ScanRecord,
)


def encode_cell(value: object, *, digits: int | None = None) -> str:
    """Write one value of a table; what is missing or not a number becomes BIDS's n/a.

    Args:
      value: Text, a number, a tuple of whole numbers, or None.
      digits: Significant ones of a float; all by default.

    Example:
      >>> encode_cell(1 / 3, digits=3), encode_cell(None), encode_cell((3, 3))
      ('0.333', 'n/a', '3x3')
    """
    if value is None:
        return "n/a"
    if isinstance(value, str):
        return "".join(_ESCAPES.get(letter, letter) for letter in value)
    if isinstance(value, tuple):
        return "x".join(str(int(each)) for each in value) or "n/a"
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return "n/a"
        return f"{value:.{digits}g}" if digits else repr(float(value))
    return str(value)


def _decode_cell(text: str, kind: object) -> Any:
    """Read what `encode_cell` wrote."""
    if kind == str | None and text == "n/a":
        return None
    if kind in (str, str | None):
        codes = {code: letter for letter, code in _ESCAPES.items()}
        return re.sub(r"\\.", lambda match: codes[match[0]], text)
    if kind is int:
        return int(text)
    if kind in (float | None, int | None) and text == "n/a":
        return None
    if kind == int | None:
        return int(text)
    if kind in (float, float | None):
        return float("nan") if text == "n/a" else float(text)
    return () if text == "n/a" else tuple(int(part) for part in text.split("x"))


def encode_table(records: Iterable[_Record], kind: type[_Record]) -> bytes:
    r"""Encode records as tab-separated lines under a line of names.

    Args:
      records: All of one kind.
      kind: One of the records of a run, such as `UnitRecord`.

    Returns:
      UTF-8; without records it holds the names alone.

    Example:
      >>> encode_table([], LayerRecord)
      b'layer\toutput_shape\tchannels\treceptive_field\tstride\n'
    """
    names = [column.name for column in fields(kind)]
    lines = [[encode_cell(getattr(record, name)) for name in names] for record in records]
    return _lines([names, *lines])


def encode_rows(rows: Sequence[Mapping[str, object]], *, digits: int | None = None) -> bytes:
    r"""Encode rows of any kind as tab-separated lines under a line of names.

    Args:
      rows: At least one; the first one's keys are the columns.
      digits: Significant ones of a float; all by default.

    Returns:
      UTF-8. What is missing or not a number is written as "n/a".

    Example:
      >>> encode_rows([{"step": 1, "loss": 0.25, "auc": None}])
      b'step\tloss\tauc\n1\t0.25\tn/a\n'
    """
    names = list(rows[0])
    lines = [[encode_cell(row[name], digits=digits) for name in names] for row in rows]
    return _lines([names, *lines])


def _lines(cells: Iterable[Sequence[str]]) -> bytes:
    return "".join("\t".join(line) + "\n" for line in cells).encode()


def read_table(path: Path, kind: type[_Record]) -> list[_Record]:
    """Read a table; one that was not written yet has no rows.

    Args:
      path: What `encode_table` encoded lies there, or nothing.
      kind: One of the records of a run, such as `UnitRecord`.

    Returns:
      The records, in the order of the lines.

    Raises:
      ValueError: If the table has other columns or a line that cannot be read.

    Example:
      >>> read_table(Path("no such file"), LayerRecord)
      []
    """
    if not path.exists():
        return []
    columns = fields(kind)
    header, *lines = path.read_bytes().decode().split("\n")
    expected = "\t".join(column.name for column in columns)
    if header != expected:
        raise ValueError(f"{path}: expected the columns {expected!r}; got {header!r}.")
    records = []
    for number, line in enumerate(lines[:-1], start=2):
        cells = line.split("\t")
        try:
            pairs = zip(columns, cells, strict=True)
            values = {column.name: _decode_cell(cell, column.type) for column, cell in pairs}
            records.append(kind(**values))
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: cannot read {line!r} ({error}).") from error
    return records


def encode_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Encode arrays as an .npz file that holds no time.

    Args:
      arrays: Of numbers, by name.

    Returns:
      The bytes of the file; equal arrays give equal bytes.

    Example:
      >>> encoded = encode_arrays({"channel": np.arange(3)})
      >>> np.load(io.BytesIO(encoded), allow_pickle=False)["channel"]
      array([0, 1, 2])
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()
