"""Cohorts: a table of subjects and their NIfTI files, checked before anything is loaded, and split.

Nothing here reads voxels. Every header is read and compared, so that a cohort that loads is one
grid: all bad rows and files are named in one `CohortError`, before hours of training, not after.
"""

import csv
import dataclasses
import gzip
import io
import itertools
import json
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath

import nibabel
import numpy as np
from jaxtyping import Float64
from nibabel import orientations
from nibabel.spatialimages import HeaderDataError

DEFAULT_PATTERN = "sub-*/**/anat/*_T1w.nii*"
DEFAULT_MAX_BYTES = 4 * 2**30
GRID_TOLERANCE_MM = 1e-3

# Deflate cannot shrink by more than this, so a small file cannot hold a large claim.
_MAX_DEFLATE_RATIO = 1032
_MAX_ID_LENGTH = 128
_SAFE_ID = re.compile(r"sub-[A-Za-z0-9][A-Za-z0-9._+-]*")
_MISSING_VALUES = frozenset({"", "n/a", "na", "nan", "none"})
_NIFTI_SUFFIXES = (".nii", ".nii.gz")
_HEADER_READERS = 16


class CohortError(ValueError):
    """A cohort that cannot be used. `problems` holds one line per bad row or file."""

    def __init__(self, heading: str, problems: Iterable[str] = ()):
        """Joins the heading and the problems, one a line, to the message."""
        self.problems = tuple(problems)
        super().__init__("\n  ".join([heading, *self.problems]))


class VolumeError(ValueError):
    """A NIfTI file that cannot be used; the message names the file, what is wrong and the fix."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """One subject of a cohort.

    Attributes:
      participant_id: always with the `sub-` prefix.
      path: the scan.
      labels: the other columns of the subject's row.
      line: where the row is in its table, 0 if there is none.

    >>> Subject("sub-01", Path("sub-01_T1w.nii.gz"), {"sex": "F"}).labels["sex"]
    'F'
    """

    participant_id: str
    path: Path
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    line: int = dataclasses.field(default=0, compare=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Cohort:
    """Subjects that share one voxel grid.

    Attributes:
      name: name of the folder, or of the table without its suffix.
      subjects: in the order of the table.
      shape: voxels along x, y, z after reorientation to RAS.
      affine: `(4, 4)`, voxel indices to mm, after reorientation to RAS.
      unlisted: image files that match the pattern but have no row in the table; they are left out.
    """

    name: str
    subjects: tuple[Subject, ...]
    shape: tuple[int, int, int]
    affine: Float64[np.ndarray, "4 4"]
    unlisted: tuple[Path, ...] = ()

    @property
    def participant_ids(self) -> tuple[str, ...]:
        """The ids of all subjects, in order."""
        return tuple(subject.participant_id for subject in self.subjects)

    def select(self, ids: Iterable[str]) -> tuple[Subject, ...]:
        """The subjects with these ids, in the order asked for.

        Args:
          ids: participant ids, with or without the `sub-` prefix.

        Raises:
          CohortError: an id is not in the cohort.
        """
        by_id = {subject.participant_id: subject for subject in self.subjects}
        wanted = [_with_prefix(participant_id) for participant_id in ids]
        missing = [participant_id for participant_id in wanted if participant_id not in by_id]
        if missing:
            raise CohortError(
                f"cohort {self.name!r} has {len(by_id)} subjects, but not these ids; "
                "was the split made for another cohort?",
                missing,
            )
        return tuple(by_id[participant_id] for participant_id in wanted)


@dataclasses.dataclass(frozen=True, eq=False)
class NiftiHeader:
    """What a NIfTI header claims, checked; nothing is allocated from it.

    Attributes:
      path: the file.
      shape: voxels along the three axes as stored.
      dtype: as stored, byte order included.
      affine: `(4, 4)`, stored voxel indices to mm.
      data_offset: bytes before the first voxel.
      slope: value = slope * stored + intercept.
      intercept: see slope.
      canonical_shape: shape after reorientation to RAS.
      canonical_affine: affine after reorientation to RAS.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype
    affine: Float64[np.ndarray, "4 4"]
    data_offset: int
    slope: float
    intercept: float
    canonical_shape: tuple[int, int, int]
    canonical_affine: Float64[np.ndarray, "4 4"]

    @property
    def num_bytes(self) -> int:
        """Bytes of all voxels as stored."""
        return math.prod(self.shape) * self.dtype.itemsize


def open_nifti(path: Path) -> io.BufferedIOBase:
    """Opens a `.nii` or `.nii.gz` for reading in order; gzip is told by its first bytes."""
    return gzip.open(path, "rb") if _is_gzip(path) else path.open("rb")


def read_header(path: Path | str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> NiftiHeader:
    """Reads and checks one NIfTI-1 or NIfTI-2 header, and no voxel.

    Without a usable sform or qform code the orientation is nibabel's default for such files.

    Args:
      path: `.nii` or `.nii.gz`, either byte order.
      max_bytes: largest volume accepted, in bytes as stored and as float32.

    Returns:
      The header.

    Raises:
      FileNotFoundError: no such file.
      VolumeError: not a three-dimensional NIfTI of real numbers with an invertible affine, or one
        whose claim is over `max_bytes` or over what the file can hold.
    """
    path = Path(path)
    try:
        with open_nifti(path) as file:
            block = file.read(540)
        file_bytes = path.stat().st_size
    except FileNotFoundError:
        fix = "a link to nothing, fetch its content" if path.is_symlink() else "check the path"
        raise FileNotFoundError(f"{path}: no such file; {fix}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise VolumeError(f"{path}: cannot be read ({error}); copy the file again") from error
    header, minimum_offset = _parse_header(path, block)

    shape = _checked_shape(path, header)
    dtype = _checked_dtype(path, header)
    num_voxels = math.prod(shape)
    if num_voxels * max(dtype.itemsize, 4) > max_bytes:
        raise VolumeError(
            f"{path}: its header claims {shape} voxels of {dtype}, more than the limit of "
            f"{max_bytes:,} bytes; the header is damaged, or raise max_bytes"
        )
    stored_offset = float(header["vox_offset"])
    if stored_offset != 0 and not minimum_offset <= stored_offset <= max_bytes:
        raise VolumeError(
            f"{path}: its header puts the voxels at byte {stored_offset:g}, expected "
            f"{minimum_offset} or a little more; the header is damaged, convert the scan again"
        )
    data_offset = int(stored_offset) or minimum_offset
    needed = data_offset + num_voxels * dtype.itemsize
    possible = file_bytes * (_MAX_DEFLATE_RATIO if _is_gzip(path) else 1)
    if needed > possible:
        raise VolumeError(
            f"{path}: truncated, its header claims {needed:,} bytes and the file of "
            f"{file_bytes:,} bytes cannot hold them; copy the file again"
        )
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    if not math.isfinite(intercept):
        raise VolumeError(f"{path}: scl_inter is {intercept}, expected a number; fix the header")

    affine = _checked_affine(path, header)
    orientation = orientations.io_orientation(affine)
    canonical_affine = affine @ orientations.inv_ornt_aff(orientation, shape)
    canonical_shape = [0, 0, 0]
    for stored_axis, canonical_axis in enumerate(orientation[:, 0].astype(int)):
        canonical_shape[canonical_axis] = shape[stored_axis]
    return NiftiHeader(
        path, shape, dtype, affine, data_offset, slope, intercept,
        (canonical_shape[0], canonical_shape[1], canonical_shape[2]), canonical_affine,
    )  # fmt: skip


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _parse_header(path: Path, block: bytes) -> tuple[nibabel.Nifti1Header, int]:
    """The header as nibabel's struct, unchecked, and the first byte where voxels may start."""
    for kind, magic, magic_at in (
        (nibabel.Nifti1Header, b"n+1\0", 344),
        (nibabel.Nifti2Header, b"n+2\0", 4),
    ):
        length = kind.sizeof_hdr
        sizes = {int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")}
        if len(block) >= length and length in sizes:
            if block[magic_at : magic_at + 4] != magic:
                break
            endianness = "<" if int.from_bytes(block[:4], "little") == length else ">"
            # Unchecked: nibabel's own check mends some damage and only logs it.
            return kind(block[:length], endianness=endianness, check=False), length + 4
    raise VolumeError(
        f"{path}: not a single-file NIfTI (starts with {block[:4]!r}, {len(block)} header bytes); "
        "expected .nii or .nii.gz, convert the scan with dcm2niix or nibabel"
    )


def _checked_shape(path: Path, header: nibabel.Nifti1Header) -> tuple[int, int, int]:
    stored = [int(size) for size in header["dim"]]
    rank = stored[0]
    sizes = stored[1 : rank + 1] if 1 <= rank <= 7 else []
    if rank < 3 or len(sizes) != rank or min(sizes) < 1 or any(size != 1 for size in sizes[3:]):
        raise VolumeError(
            f"{path}: expected one volume of three dimensions, its header has dim={stored}; "
            "for a time series save one volume or the mean as its own file"
        )
    return sizes[0], sizes[1], sizes[2]


def _checked_dtype(path: Path, header: nibabel.Nifti1Header) -> np.dtype:
    try:
        dtype = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError, TypeError) as error:
        raise VolumeError(
            f"{path}: unknown NIfTI datatype code {int(header['datatype'])}; "
            "save the scan as int16 or float32"
        ) from error
    if dtype.kind not in "iuf" or dtype.itemsize * 8 != int(header["bitpix"]):
        raise VolumeError(
            f"{path}: its voxels are {dtype} (bitpix {int(header['bitpix'])}), expected real "
            "numbers; save the scan as int16 or float32"
        )
    return dtype


def _checked_affine(path: Path, header: nibabel.Nifti1Header) -> Float64[np.ndarray, "4 4"]:
    header = header.copy()
    # The standard reads a qfac of 0 as 1; nibabel refuses it.
    if header["pixdim"][0] == 0:
        header["pixdim"][0] = 1
    try:
        affine = np.asarray(header.get_best_affine(), np.float64)
    except (HeaderDataError, ValueError) as error:
        raise VolumeError(f"{path}: its affine is damaged ({error}); register it again") from error
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if (
        not np.isfinite(affine).all()
        or sizes.min() == 0
        or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-4
    ):
        raise VolumeError(
            f"{path}: its affine is not invertible: {affine[:3].tolist()}; "
            "write the right sform or qform into the header"
        )
    return affine


def read_cohort(
    path: Path | str, *, pattern: str = DEFAULT_PATTERN, max_bytes: int = DEFAULT_MAX_BYTES
) -> Cohort:
    """Reads a cohort: who is in it, where the scans lie, and whether they fit together.

    Two layouts are read. A folder in BIDS style: `participants.tsv`, and one file per row that
    matches `pattern` (sessions and any BIDS or derivative entities are fine). Or a `.tsv` with the
    columns `participant_id` and `path`, relative to that table. All other columns become labels.
    The table decides who is in: a file without a row is left out, and named in `Cohort.unlisted`.

    Args:
      path: the folder or the table.
      pattern: glob relative to the folder; files must end in `.nii` or `.nii.gz`.
      max_bytes: largest volume accepted, see `read_header`.

    Returns:
      The cohort; its subjects share one shape and one affine (to 1e-3 mm at every corner).

    Raises:
      FileNotFoundError: `path`, or a folder's participants.tsv, does not exist.
      CohortError: everything else that is wrong, all bad rows and files at once.
    """
    path = Path(path)
    table = path / "participants.tsv" if path.is_dir() else path
    if not table.is_file():
        raise FileNotFoundError(
            f"{table}: no such file; give a folder with participants.tsv, or a .tsv with the "
            "columns participant_id and path"
        )
    problems: list[str] = []
    rows = _read_table(table, problems)
    if path.is_dir():
        subjects, unlisted = _find_scans(path, rows, pattern, problems)
        name = path.resolve().name
    else:
        subjects, unlisted = _listed_scans(table, rows, problems), ()
        name = table.name.removesuffix(table.suffix)

    headers = _read_headers(subjects, max_bytes, problems)
    reference = _common_grid(headers, problems)
    if problems or reference is None:
        raise CohortError(
            f"cohort {path}: {len(problems) or 'no'} problems found, nothing was loaded:",
            problems or ["the table has no rows; add one row per subject"],
        )
    return Cohort(
        name, tuple(subjects), reference.canonical_shape, reference.canonical_affine, unlisted
    )


@dataclasses.dataclass(frozen=True)
class _Row:
    line: int
    participant_id: str
    values: Mapping[str, str]


def _with_prefix(participant_id: str) -> str:
    return participant_id if participant_id.startswith("sub-") else f"sub-{participant_id}"


def _read_table(table: Path, problems: list[str]) -> list[_Row]:
    """The good rows of a table; what is wrong with the others goes to `problems`."""
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
    rows: list[_Row] = []
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
        participant_id = _with_prefix(written)
        if written.lower() in _MISSING_VALUES:
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
            rows.append(_Row(line, participant_id, values))
    return rows


def _find_scans(
    folder: Path, rows: list[_Row], pattern: str, problems: list[str]
) -> tuple[list[Subject], tuple[Path, ...]]:
    if PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts or not pattern:
        raise CohortError(f"pattern={pattern!r}: expected a glob relative to {folder}")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(pattern)):
        if not path.name.endswith(_NIFTI_SUFFIXES) or path.name.startswith("."):
            continue
        in_name = path.name.split("_")[0].split(".")[0]
        in_folders = [p for p in path.relative_to(folder).parts[:-1] if p.startswith("sub-")]
        owner = in_folders[0] if in_folders else in_name
        # A scan in another subject's folder would carry that subject's label.
        if in_name.startswith("sub-") and not path.name.startswith((f"{owner}_", f"{owner}.")):
            problems.append(f"{path}: named {in_name} but lies in {owner}; move or rename it")
        found.setdefault(owner, []).append(path)

    subjects = []
    for row in rows:
        paths = found.pop(row.participant_id, [])
        if len(paths) == 1:
            subjects.append(Subject(row.participant_id, paths[0], row.values, row.line))
        elif not paths:
            problems.append(
                f"participants.tsv line {row.line}: no file for {row.participant_id} matches "
                f"{pattern!r}; remove the row, add the file, or give another pattern"
            )
        else:
            listed = ", ".join(str(path.relative_to(folder)) for path in paths)
            problems.append(
                f"participants.tsv line {row.line}: {len(paths)} files for {row.participant_id} "
                f"({listed}); give a narrower pattern, or a .tsv with a path column"
            )
    return subjects, tuple(itertools.chain.from_iterable(found.values()))


def _listed_scans(table: Path, rows: list[_Row], problems: list[str]) -> list[Subject]:
    subjects = []
    first_line: dict[Path, int] = {}
    if rows and "path" not in rows[0].values:
        raise CohortError(
            f"{table}: a table given by itself needs a column path (relative to the table); "
            "add it, or give the folder in BIDS style instead; the columns are:",
            ["participant_id", *rows[0].values],
        )
    for row in rows:
        labels = dict(row.values)
        written = labels.pop("path")
        path = table.parent / written
        place = f"{table.name} line {row.line}"
        if not written or not written.endswith(_NIFTI_SUFFIXES):
            problems.append(f"{place}: path {written!r}, expected a .nii or .nii.gz file")
        elif path.resolve() in first_line:
            problems.append(
                f"{place}: path {written!r} is already on line {first_line[path.resolve()]}; "
                "the same scan must not be two subjects"
            )
        else:
            first_line[path.resolve()] = row.line
            subjects.append(Subject(row.participant_id, path, labels, row.line))
    return subjects


def _read_headers(
    subjects: list[Subject], max_bytes: int, problems: list[str]
) -> list[NiftiHeader]:
    def read(subject: Subject) -> NiftiHeader | str:
        try:
            return read_header(subject.path, max_bytes=max_bytes)
        except (FileNotFoundError, VolumeError) as error:
            return str(error)

    # Threads hide the latency of a network file system.
    with ThreadPoolExecutor(_HEADER_READERS) as pool:
        results = list(pool.map(read, subjects))
    problems.extend(result for result in results if isinstance(result, str))
    return [result for result in results if not isinstance(result, str)]


def _common_grid(headers: list[NiftiHeader], problems: list[str]) -> NiftiHeader | None:
    """The grid most headers have; the headers that differ go to `problems`."""
    if not headers:
        return None
    keys = [(h.canonical_shape, tuple(h.canonical_affine.round(1).ravel())) for h in headers]
    reference = headers[keys.index(Counter(keys).most_common(1)[0][0])]
    for header in headers:
        if header.canonical_shape != reference.canonical_shape:
            problems.append(
                f"{header.path}: shape {header.canonical_shape} after reorientation to RAS, most "
                f"files have {reference.canonical_shape}; resample all scans to one grid"
            )
            continue
        distance = _largest_distance_mm(header, reference)
        if distance > GRID_TOLERANCE_MM:
            problems.append(
                f"{header.path}: its affine puts voxels up to {distance:.3g} mm from where "
                f"{reference.path.name} has them (affine {header.canonical_affine[:3].tolist()}, "
                f"expected {reference.canonical_affine[:3].tolist()}); "
                "resample all scans to one grid"
            )
    return reference


def _largest_distance_mm(header: NiftiHeader, reference: NiftiHeader) -> float:
    """How far apart two affines put the same voxel, at the worst corner of the grid."""
    last = [size - 1 for size in header.canonical_shape]
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, n) for n in last))])
    offsets = corners @ (header.canonical_affine - reference.canonical_affine).T
    return float(np.linalg.norm(offsets[:, :3], axis=1).max())


@dataclasses.dataclass(frozen=True)
class Split:
    """Which subjects are for training, validation and test; a subject is in one part only.

    >>> Split(train=("sub-01",), validation=("sub-02",), test=("sub-03",)).test
    ('sub-03',)
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self):
        """Refuses a subject that is in the split twice."""
        counts = Counter([*self.train, *self.validation, *self.test])
        repeated = [participant_id for participant_id, count in counts.items() if count > 1]
        if repeated:
            raise CohortError("a split must hold each subject once, these come twice:", repeated)

    def save(self, path: Path | str) -> None:
        """Writes the split as JSON, whole or not at all."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", "utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path | str) -> "Split":
        """Reads a split that `save` wrote.

        Raises:
          FileNotFoundError: no such file.
          CohortError: not a split, or one with a subject in two parts.
        """
        path = Path(path)
        parts = [field.name for field in dataclasses.fields(cls)]
        try:
            content = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise CohortError(f"{path}: not JSON, make the split again:", [str(error)]) from error
        if not isinstance(content, dict) or sorted(content) != sorted(parts):
            raise CohortError(f"{path}: expected an object with these lists of ids:", parts)
        for part, ids in content.items():
            if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
                raise CohortError(f"{path}: expected {part} to be a list of ids, got:", [repr(ids)])
        try:
            return cls(**{part: tuple(content[part]) for part in parts})
        except CohortError as error:
            raise CohortError(f"{path}: {error.args[0].splitlines()[0]}", error.problems) from None


def split_subjects(
    cohort: Cohort,
    *,
    label: str | None,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Split:
    """Splits a cohort by subject, with each label value at its share in every part.

    As in the paper the test part is taken first, and the validation part from what is left:
    `n_test = round(test_fraction * n)`, `n_validation = round(validation_fraction * (n - n_test))`.
    The draw depends on the set of ids, their labels and the seed, not on the order of the table.

    Args:
      cohort: the cohort.
      label: the column to stratify by; None draws without regard to labels.
      test_fraction: in [0, 1); 0 leaves the part empty.
      validation_fraction: in [0, 1), of the subjects that are not in the test part.
      seed: seed of the draw.

    Returns:
      The split, ids sorted within each part.

    Raises:
      ValueError: a fraction is out of range.
      CohortError: the label is unknown, has missing values or one value only, or a part would be
        empty or lack a value.
    """
    for name, fraction in (
        ("test_fraction", test_fraction),
        ("validation_fraction", validation_fraction),
    ):
        if not 0 <= fraction < 1:
            raise ValueError(f"{name}={fraction}: expected a number in [0, 1), such as 0.2")
    subjects = sorted(cohort.subjects, key=lambda subject: subject.participant_id)
    ids = [subject.participant_id for subject in subjects]
    labels = None if label is None else _label_values(cohort, subjects, label)

    rest, test = _draw(ids, labels, test_fraction, seed)
    train, validation = _draw(rest, labels, validation_fraction, seed)
    split = Split(tuple(train), tuple(validation), tuple(test))
    _check_parts(cohort, split, label, labels, test_fraction, validation_fraction)
    return split


def _label_values(cohort: Cohort, subjects: list[Subject], label: str) -> dict[str, str]:
    columns = sorted({column for subject in subjects for column in subject.labels})
    if label not in columns:
        raise CohortError(
            f"cohort {cohort.name!r} has no label {label!r}; use one of its columns, or no label:",
            columns,
        )
    values = {s.participant_id: s.labels.get(label, "") for s in subjects}
    missing = [
        f"{subject.participant_id} (line {subject.line}): {values[subject.participant_id]!r}"
        for subject in subjects
        if values[subject.participant_id].lower() in _MISSING_VALUES
    ]
    if missing:
        raise CohortError(
            f"cohort {cohort.name!r}: label {label!r} is missing (empty or n/a) for these "
            f"subjects; fill it in or remove their rows. Values: {_describe(values.values())}:",
            missing,
        )
    if len(set(values.values())) < 2:
        raise CohortError(
            f"cohort {cohort.name!r}: label {label!r} needs at least two values, it has "
            f"{_describe(values.values())}; choose another label, or no label"
        )
    return values


def _describe(values: Iterable[str]) -> str:
    return ", ".join(f"{value!r}: {count}" for value, count in sorted(Counter(values).items()))


def _draw(
    ids: list[str], labels: Mapping[str, str] | None, fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """Splits ids into those that stay and `round(fraction * n)` that are drawn."""
    # Imported here: it takes a second, and every data worker imports this module.
    from sklearn.model_selection import train_test_split

    count = math.floor(fraction * len(ids) + 0.5)
    if count == 0 or count == len(ids):
        return (ids, []) if count == 0 else ([], ids)
    strata = None if labels is None else [labels[participant_id] for participant_id in ids]
    try:
        stay, drawn = train_test_split(ids, test_size=count, stratify=strata, random_state=seed)
    except ValueError:
        # Too few of some value to stratify; the check of the parts says so with the counts.
        return ids, []
    return sorted(stay), sorted(drawn)


def _check_parts(
    cohort: Cohort,
    split: Split,
    label: str | None,
    labels: Mapping[str, str] | None,
    test_fraction: float,
    validation_fraction: float,
) -> None:
    every_value = set(labels.values()) if labels else set()
    asked_for = (
        ("train", split.train, True),
        ("validation", split.validation, validation_fraction > 0),
        ("test", split.test, test_fraction > 0),
    )
    problems = []
    for part, ids, is_asked_for in asked_for:
        values = {labels[participant_id] for participant_id in ids} if labels else set()
        if is_asked_for and not ids:
            problems.append(f"{part}: empty, or too small to hold every value")
        elif is_asked_for and values != every_value:
            lacking = ", ".join(repr(value) for value in sorted(every_value - values))
            problems.append(f"{part}: {len(ids)} subjects, none with {lacking}")
    if problems:
        counts = f"; label {label!r} has {_describe(labels.values())}" if labels else ""
        raise CohortError(
            f"cohort {cohort.name!r}: {len(cohort.subjects)} subjects are too few to split with "
            f"test_fraction={test_fraction} and validation_fraction={validation_fraction}{counts}; "
            "add subjects, join rare values, or raise the fractions:",
            problems,
        )
