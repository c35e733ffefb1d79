"""Tables of participants, drawn at random, and who is in them by a second reading.

Every function takes a `random.Random`, as in `tests/data/mutations.py`.
"""

import re
import unicodedata
from pathlib import Path
from random import Random

import nibabel
import numpy as np

from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.errors import CohortError
from featvis_jax.data.participants import MISSING_VALUES
from featvis_jax.data.splits import split_subjects

PEOPLE = 12
_SCAN = nibabel.Nifti1Image(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.eye(4)).to_bytes()
_ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "latin-1")
_INSERTED = (b'"', b'"', b"\t", b"\n", b"\r", b",", b"\0", b" ", b"\xff", b"f", b"\xc2\xa0", b'""')
_CELL = re.compile(r'\t(?:"((?:[^"]|"")*)"(?=\t|$)|([^\t"][^\t]*|))')


def table(random: Random) -> bytes:
    """A table as people and programs write it, with up to some edits that nobody meant."""
    columns = ["participant_id", "sex", "age", "note"]
    if random.random() < 0.1:
        random.shuffle(columns)
    if random.random() < 0.05:
        columns[-1] = random.choice(columns[:-1])
    rows = []
    for number in range(1, PEOPLE + 1 - random.choice((0, 0, 0, 1))):
        sex = "FM"[number % 2]
        if random.random() < 0.02:
            sex = random.choice(("f", "m ", "F\u200b", "\uff26", "n/a", "female", "Ф"))
        note = random.choice(("", "n/a", 'left "frontal"', '5"', '"a\tb"', "müde", '"so"'))
        cells = {"participant_id": f"sub-{number:02d}", "sex": sex, "age": f"{20 + number}"}
        rows.append([cells.get(column, note) for column in columns])
    if random.random() < 0.05:
        rows[0] = rows[0][: random.randint(1, 3)]
    separator = random.choice((",", ";")) if random.random() < 0.05 else "\t"
    if random.random() < 0.03:
        rows = []
    encoding = random.choice(_ENCODINGS) if random.random() < 0.15 else "utf-8"
    newline = random.choice(("\n", "\n", "\n", "\r\n", "\r"))
    text = newline.join(separator.join(row) for row in [columns, *rows])
    content = bytearray(text.encode(encoding, errors="replace"))
    for _ in range(random.choice((0, 0, 1, 1, 2, 4))):
        place = random.randrange(len(content) + 1)
        if random.random() < 0.7:
            content[place:place] = random.choice(_INSERTED)
        else:
            del content[place : place + random.choice((1, 2, 30))]
    return bytes(content)


def cohort(random: Random, folder: Path) -> Path:
    """A folder, or a table of paths, of people who have a scan each, by such a table."""
    for number in range(1, PEOPLE + 1):
        name = f"sub-{number:02d}"
        path = folder / name / "anat" / f"{name}_T1w.nii"
        path.parent.mkdir(parents=True)
        path.write_bytes(_SCAN)
    content = table(random)
    (folder / "participants.tsv").write_bytes(content)
    return folder


def people(content: bytes) -> dict[str, dict[str, str]]:
    """Who is in a table, line by line: a cell ends on its line."""
    lines = re.split(r"\r\n|\n|\r", content.decode("utf-8-sig"))
    rows = [_cells(line) for line in lines]
    rows = [cells for cells in rows if any(cells)]
    found = {}
    for cells in rows[1:]:
        labels = dict(zip(rows[0], cells, strict=True))
        name = labels.pop("participant_id")
        found[name if name.startswith("sub-") else f"sub-{name}"] = labels
    assert len(found) == len(rows) - 1, "two rows of one person"
    return found


def outcome(folder: Path) -> str:
    """What became of a cohort: "read" or "refused", or what is wrong with it."""
    content = (folder / "participants.tsv").read_bytes()
    try:
        found = read_cohort(folder)
    except CohortError as error:
        named = str(folder) in str(error).split("\n")[0]
        return "refused" if named else f"unnamed error: {error}"
    try:
        expected = people(content)
    except Exception as error:
        return f"silent difference: read what a second reading cannot, {error!r}"
    labels = {subject.participant_id: dict(subject.labels) for subject in found.subjects}
    if labels != expected:
        return f"silent difference: {labels} and {expected}"
    if len(found.subjects) + len(found.unlisted) != PEOPLE:
        return "silent difference: scans vanished"
    try:
        split_subjects(found, label="sex", test_fraction=0.34, validation_fraction=0.5)
    except CohortError as error:
        named = str(found.table) in str(error)
        return "refused" if named else f"unnamed error: {error}"
    return _classes({values["sex"] for values in labels.values()})


def _classes(labels: set[str]) -> str:
    """Whether the classes are no spellings of one another."""
    folded = {
        "".join(c for c in unicodedata.normalize("NFKC", label).casefold() if c.isalnum())
        for label in labels
    }
    if any(label.lower() in MISSING_VALUES for label in labels):
        return "silent difference: a missing label is a class"
    return "read" if len(folded) == len(labels) else f"silent difference: classes {labels}"


def _cells(line: str) -> list[str]:
    cells, at = [], 0
    line = f"\t{line}"
    while at < len(line):
        match = _CELL.match(line, at)
        if match is None:
            raise ValueError(f"a stray quotation mark in {line!r}")
        quoted, plain = match.groups()
        cells.append((quoted.replace('""', '"') if quoted is not None else plain).strip())
        at = match.end()
    return cells
