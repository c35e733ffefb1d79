"""The table of a cohort's participants: who is in it, with which labels, and on which line.

Files from spreadsheets are read too: with a byte order mark, and with line ends of any system.
"""

import contextlib
import csv
import io
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from featvis_jax.data.errors import CohortError

# What BIDS writes for a missing value, and what other programs write.
MISSING_VALUES = frozenset({"", "n/a", "na", "nan", "none"})

_MAX_ID_LENGTH = 128
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SAFE_ID = re.compile(r"sub-[A-Za-z0-9][A-Za-z0-9._+-]*")


class Row(NamedTuple):
    """One row of a table of participants.

    Attributes:
      line: Where it is in the file, from 1.
      participant_id: With the `sub-` prefix, safe as a file name.
      values: The other columns.
    """

    line: int
    participant_id: str
    values: Mapping[str, str]


def with_prefix(participant_id: str) -> str:
    """The id as BIDS writes it.

    Example:
      >>> with_prefix("01"), with_prefix("sub-01")
      ('sub-01', 'sub-01')
    """
    return participant_id if participant_id.startswith("sub-") else f"sub-{participant_id}"


def read_participants(table: Path) -> tuple[list[Row], list[str]]:
    """Read a table with a column `participant_id`, separated by tabs.

    Args:
      table: The file.

    Returns:
      The good rows, and a line of text about each of the others. Ids that differ only in case are
      one, since some file systems cannot tell them apart.

    Raises:
      CohortError: Not a table of participants at all.
    """
    lines = [(line, cells) for line, cells in _records(table) if any(cells)]
    columns = lines[0][1] if lines else []
    if "participant_id" not in columns or len(set(columns)) != len(columns):
        raise CohortError(
            f"{table}: expected a first line of distinct column names with participant_id, "
            "separated by tabs; the columns are:",
            [repr(column) for column in columns] or ["(none, the file is empty)"],
        )
    rows: list[Row] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for line, cells in lines[1:]:
        place = f"{table.name} line {line}"
        if len(cells) != len(columns):
            problems.append(
                f"{place}: {len(cells)} cells, expected {len(columns)} as in the first line"
            )
            continue
        if odd := [cell for cell in cells if _CONTROL.search(cell)]:
            problems.append(f"{place}: {odd[0]!r} holds a control character; remove it")
            continue
        values = dict(zip(columns, cells, strict=True))
        written = values.pop("participant_id")
        participant_id = with_prefix(written)
        if written.lower() in MISSING_VALUES:
            problems.append(f"{place}: participant_id is missing ({written!r}); fill it in")
        elif not _SAFE_ID.fullmatch(participant_id) or len(participant_id) > _MAX_ID_LENGTH:
            problems.append(
                f"{place}: participant_id {written!r} is not safe as a file name; use letters, "
                f"digits and . _ + - (at most {_MAX_ID_LENGTH} characters, a letter or digit first)"
            )
        elif participant_id.lower() in first_line:
            problems.append(
                f"{place}: participant_id {written!r} is already on line "
                f"{first_line[participant_id.lower()]} (upper and lower case count as one); "
                "keep one row per subject"
            )
        else:
            first_line[participant_id.lower()] = line
            rows.append(Row(line, participant_id, values))
    return rows, problems


def same_labels(values: Iterable[str]) -> list[tuple[str, ...]]:
    """Spellings of one label that would count as several classes.

    Two values are one label if they differ only in upper and lower case, in quotation marks, spaces
    and invisible characters, in how Unicode writes them, or as numbers are written.

    Args:
      values: Values of a column.

    Returns:
      The sets of such spellings, each sorted; none where every label has one spelling.

    Example:
      >>> same_labels(["F", "f", "M", "\uff2d", "1", "1.0", "female"])
      [('1', '1.0'), ('F', 'f'), ('M', 'Ｍ')]
    """
    spellings: dict[str, set[str]] = {}
    for value in values:
        spellings.setdefault(_folded(value), set()).add(value)
    return sorted(tuple(sorted(found)) for found in spellings.values() if len(found) > 1)


def number(text: str) -> float | None:
    """The finite number that a cell holds; None where it holds something else.

    Example:
      >>> number("-2.5"), number("1e3"), number("inf"), number("left")
      (-2.5, 1000.0, None, None)
    """
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _folded(value: str) -> str:
    """What spellings of one label have in common."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).casefold())
    # Joiners, soft hyphens and marks of direction are not seen.
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = " ".join(text.split()).strip("\"'“”‘’ ")
    with contextlib.suppress(ValueError):
        return repr(float(text))
    return text


def _records(table: Path) -> list[tuple[int, list[str]]]:
    """The cells of every line, with its number.

    Raises:
      CohortError: It is no text, or a cell goes on over several lines: a stray quotation mark opens
        a cell that swallows all lines to the next one.
    """
    text = _text(table)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    records: list[tuple[int, list[str]]] = []
    problems: list[str] = []
    line = 1
    try:
        for cells in reader:
            if reader.line_num > line:
                swallowed = next((cell for cell in cells if re.search(r"[\r\n]", cell)), "")
                problems.append(
                    f"{table.name} line {line}: a quotation mark opens a cell that ends on line "
                    f"{reader.line_num} ({swallowed[:20]!r}...)"
                )
            records.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        # What strict reading says of a mark that nothing closes.
        fault = "nothing closes a quotation mark" if "end of data" in str(error) else str(error)
        problems.append(f"{table.name} line {line}: {fault}")
    if problems:
        raise CohortError(
            f"{table}: cells within quotation marks have to end on their line and before a tab; "
            "remove stray marks, or double those inside of such a cell:",
            problems,
        )
    return records


def _text(table: Path) -> str:
    content = table.read_bytes()
    fault, error = None, None
    try:
        text = content.decode("utf-8-sig")
        if "\0" in text.split("\n", 1)[0]:
            fault = f"{table.name} line 1: NUL bytes, as in UTF-16"
    except UnicodeDecodeError as caught:
        text, error = "", caught
        line = content[: caught.start].count(b"\n") + 1
        fault = f"{table.name} line {line}: {caught}"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        fault = f"{table.name} line 1: the mark of UTF-16, which spreadsheets write"
    if fault is not None:
        raise CohortError(
            f"{table}: expected UTF-8 text with tabs between cells; save it as such:", [fault]
        ) from error
    return text
