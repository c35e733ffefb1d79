"""The table of a cohort's participants: who is in it, with which labels, and on which line.

Files from spreadsheets are read too: with a byte order mark, and with line ends of any system.
"""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from featvis_jax.data.errors import CohortError

# What BIDS writes for a missing value, and what other programs write.
MISSING_VALUES = frozenset({"", "n/a", "na", "nan", "none"})

_MAX_ID_LENGTH = 128
_SAFE_ID = re.compile(r"sub-[A-Za-z0-9][A-Za-z0-9._+-]*")


class Row(NamedTuple):
    """One row of a table of participants.

    Attributes:
      line: where it is in the file, from 1.
      participant_id: with the `sub-` prefix, safe as a file name.
      values: the other columns.
    """

    line: int
    participant_id: str
    values: Mapping[str, str]


def with_prefix(participant_id: str) -> str:
    """The id as BIDS writes it.

    >>> with_prefix("01"), with_prefix("sub-01")
    ('sub-01', 'sub-01')
    """
    return participant_id if participant_id.startswith("sub-") else f"sub-{participant_id}"


def read_participants(table: Path) -> tuple[list[Row], list[str]]:
    """Reads a table with a column `participant_id`, separated by tabs.

    Args:
      table: the file.

    Returns:
      The good rows, and a line of text about each of the others. Ids that differ only in case are
      one, since some file systems cannot tell them apart.

    Raises:
      CohortError: not a table of participants at all.
    """
    try:
        text = table.read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortError(
            f"{table}: expected UTF-8 text with tabs between cells; save it as such:", [str(error)]
        ) from error
    lines = [(line, cells) for line, cells in lines if any(cells)]
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
