"""Damaged scans and tables of participants, drawn at random, for the fuzz tests.

Every function takes a `random.Random`: hypothesis gives one whose choices it can shrink, the long
run in `tests/stress` one of a seed.
"""

import functools
import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from random import Random

import nibabel
import numpy as np

SHAPE = (3, 4, 5)
_DTYPES = (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64)
_INTEGERS = (
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    16,
    32,
    64,
    128,
    255,
    352,
    540,
    2**15 - 1,
    2**31 - 1,
    2**63 - 1,
)
_FLOATS = (0.0, 1.0, 1e-45, 1e-30, 2.5, 352.0, 352.5, 1e30, 3.4e38, math.inf, math.nan)
_BYTES = (b"", b"\0", b"\xff", b"\x1f\x8b\x08\0", b"n+1\0", b"\t", b"\r\n", b'"', b"\xef\xbb\xbf")
_IDS = (
    "sub-01",
    "01",
    "sub-02",
    "sub-03",
    "SUB-01",
    "../../x",
    "n/a",
    "",
    "sub-",
    "a" * 200,
    "é",
    "-",
)
_LABELS = ("F", "M", "n/a", "", "NaN", "x\0y", "F\u2028M", "\ud7ff")


def scan(random: Random, *, most_edits: int = 4) -> bytes:
    """A NIfTI file with up to some edits: of header fields, of bytes, and of the packed bytes.

    Args:
      random: Makes all choices.
      most_edits: 0 gives a sound file of any version, byte order and type.
    """
    content = bytearray(_sound_scan(random))
    for _ in range(random.randint(0, most_edits)):
        edit = random.choice((_set_field, _set_field, _set_field, _edit_bytes))
        edit(random, content)
    if random.random() < 0.5:
        content = bytearray(gzip.compress(content, 1, mtime=0))
        for _ in range(random.randint(0, most_edits // 2)):
            _edit_bytes(random, content)
    return bytes(content)


def table(random: Random, columns: Sequence[str] = ("participant_id", "sex")) -> bytes:
    """A table of participants with odd ids, labels, line ends, encodings and broken rows."""
    rows = [list(columns)]
    for number in range(random.randint(0, 6)):
        usual = random.random() < 0.7
        cells = [f"sub-{number + 1:02d}" if usual else random.choice(_IDS)]
        cells += [random.choice(_LABELS) for _ in columns[1:]]
        if random.random() < 0.1:
            cells = cells[: random.randint(0, len(cells))] + ["more"] * random.randint(0, 2)
        rows.append(cells)
    newline = random.choice(("\n", "\n", "\r\n", "\r", "\n\n"))
    encoding = random.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    text = newline.join(random.choice(("\t", "\t", "\t", ",")).join(row) for row in rows)
    content = bytearray(text.encode(encoding, errors="replace"))
    for _ in range(random.choice((0, 0, 0, 1, 3))):
        _edit_bytes(random, content)
    return bytes(content)


def cohort(random: Random, folder: Path) -> Path:
    """Writes a cohort of three scans, some of them damaged; gives the path to read it from."""
    for number in range(1, 4):
        name = f"sub-{number:02d}"
        suffix = random.choice((".nii", ".nii.gz"))
        path = folder / name / "anat" / f"{name}_T1w{suffix}"
        path.parent.mkdir(parents=True)
        damaged = random.random() < 0.3
        path.write_bytes(scan(random) if damaged else _usual_scan(number))
    if random.random() < 0.7:
        (folder / "participants.tsv").write_bytes(
            table(random) if random.random() < 0.6 else b"participant_id\n01\n02\n03\n"
        )
        return folder
    found = [str(path.relative_to(folder)) for path in sorted(folder.glob("*/*/*"))]
    odd = ("gone.nii", "sub-01", "", ".", "a\0.nii", "x" * 300 + ".nii", "../" * 50 + "etc.nii")
    lines = [
        f"{number}\tFM{random.choice(_LABELS)}\t"
        + (random.choice(odd) if random.random() < 0.2 else path)
        for number, path in enumerate(found)
    ]
    content = bytearray("\n".join(["participant_id\tsex\tpath", *lines]).encode())
    if random.random() < 0.3:
        _edit_bytes(random, content)
    (folder / "list.tsv").write_bytes(content)
    return folder / "list.tsv"


def bomb(random: Random) -> bytes:
    """A small file that unpacks to 64 MiB, as it claims or behind what it claims."""
    size = random.choice((3, 256, 400))
    header = nibabel.Nifti1Header()
    header.set_data_shape((size, size, size))
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = random.choice((352, 352, 2**24, 2**26))
    header["magic"] = b"n+1"
    return gzip.compress(header.binaryblock + bytes(2**26), 1, mtime=0)


def _sound_scan(random: Random) -> bytes:
    kind = random.choice((nibabel.Nifti1Image, nibabel.Nifti2Image))
    axes = random.choice(((0, 1, 2, 3), (1, 2, 0, 3)))
    return _encoded(kind, random.choice("<>"), random.choice(_DTYPES), axes)


@functools.cache
def _encoded(
    kind: type[nibabel.Nifti1Image], endianness: str, dtype: type, axes: tuple[int, ...]
) -> bytes:
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(dtype)
    data = np.arange(math.prod(SHAPE)).reshape(SHAPE).astype(dtype)
    return kind(data, np.diag([2.0, -2.0, 3.0, 1.0])[list(axes)], header).to_bytes()


@functools.cache
def _usual_scan(seed: int) -> bytes:
    data = np.random.default_rng(seed).integers(0, 200, SHAPE).astype(np.uint8)
    return nibabel.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0])).to_bytes()


def _set_field(random: Random, content: bytearray) -> None:
    """Puts an odd number into one place of one header field."""
    if len(content) < nibabel.Nifti2Header.sizeof_hdr:
        return
    is_old = int.from_bytes(content[:4], "little") in (348, int.from_bytes(b"\0\0\1\x5c", "little"))
    dtype = (nibabel.Nifti1Header if is_old else nibabel.Nifti2Header).template_dtype
    fields = dtype.fields
    assert fields is not None
    kind, offset = random.choice(sorted(fields.values(), key=lambda field: field[1]))[:2]
    offset += kind.base.itemsize * random.randrange(max(math.prod(kind.shape), 1))
    order = "<" if content[0] else ">"
    base = kind.base
    if base.kind == "f":
        number = random.choice((1, -1)) * random.choice(_FLOATS)
        with np.errstate(over="ignore"):
            value = np.array(number).astype(base.newbyteorder(order)).tobytes()
    elif base.kind in "iu":
        number = random.choice((1, -1)) * random.choice(_INTEGERS)
        value = (number % 2 ** (8 * base.itemsize)).to_bytes(
            base.itemsize, "little" if order == "<" else "big"
        )
    else:
        value = bytes(random.randrange(256) for _ in range(base.itemsize))
    content[offset : offset + base.itemsize] = value


def _edit_bytes(random: Random, content: bytearray) -> None:
    """Overwrites, inserts, cuts out, cuts off, repeats or pads."""
    place = random.randrange(len(content) + 1)
    kind = random.randrange(6)
    if kind == 0:
        content[place : place + 1] = bytes([random.randrange(256)])
    elif kind == 1:
        content[place:place] = random.choice(_BYTES)
    elif kind == 2:
        del content[place : place + random.choice((1, 2, 4, 100))]
    elif kind == 3:
        del content[place:]
    elif kind == 4:
        content += content[: random.choice((10, 1000))]
    else:
        content += bytes(random.choice((1, 1000, 2**15)))
