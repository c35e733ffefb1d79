"""Cohorts: subjects and their scans, checked before anything is loaded.

Nothing here reads voxels. Every header is read and compared, so that a cohort that loads is one
grid: all bad rows and files are named in one `CohortError`, before hours of training, not after.
"""

import dataclasses
import itertools
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Float64
from nibabel.affines import apply_affine

from featvis_jax.data.errors import CohortError, VolumeError
from featvis_jax.data.headers import DEFAULT_MAX_BYTES, NIFTI_SUFFIXES, NiftiHeader, read_header
from featvis_jax.data.participants import Row, read_participants, with_prefix
from featvis_jax.data.pointers import existing_file

DEFAULT_PATTERN = "sub-*/**/anat/*_T1w.nii*"
GRID_TOLERANCE_MM = 1e-3

_HEADER_READERS = 16


@dataclasses.dataclass(frozen=True)
class Subject:
    """One subject of a cohort.

    Attributes:
      participant_id: Always with the `sub-` prefix.
      path: The scan.
      labels: The other columns of the subject's row.
      line: Where the row is in its table, 0 if there is none.

    Example:
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
      name: Name of the folder, or of the table without its suffix.
      table: The file that lists the subjects.
      subjects: In the order of the table.
      shape: Voxels along x, y, z after reorientation to RAS.
      affine: `(4, 4)`, voxel indices to mm, after reorientation to RAS.
      unlisted: Image files that match the pattern but have no row in the table; they are left out.
      unoriented: Scans whose header does not tell where they lie; taken as nibabel takes them, for
        stored from right to left, back to front, bottom to top.
      resampled_mm: The voxel size that scans are brought to when they are read, which `shape` and
        `affine` are of (`featvis_jax.data.resampling`); None where they stay as they are.
    """

    name: str
    table: Path
    subjects: tuple[Subject, ...]
    shape: tuple[int, int, int]
    affine: Float64[np.ndarray, "4 4"]
    unlisted: tuple[Path, ...] = ()
    unoriented: tuple[Path, ...] = ()
    resampled_mm: float | None = None

    @property
    def participant_ids(self) -> tuple[str, ...]:
        """The ids of all subjects, in order."""
        return tuple(subject.participant_id for subject in self.subjects)

    def select(self, ids: Iterable[str]) -> tuple[Subject, ...]:
        """The subjects with these ids, in the order asked for.

        Args:
          ids: Participant ids, with or without the `sub-` prefix.

        Raises:
          CohortError: An id is not in the cohort.
        """
        by_id = {subject.participant_id: subject for subject in self.subjects}
        wanted = [with_prefix(participant_id) for participant_id in ids]
        missing = [participant_id for participant_id in wanted if participant_id not in by_id]
        if missing:
            raise CohortError(
                f"{self.table}: has {len(by_id)} subjects, but not these ids; "
                "was the split made for another cohort?",
                missing,
            )
        return tuple(by_id[participant_id] for participant_id in wanted)


def read_cohort(
    path: Path | str, *, pattern: str = DEFAULT_PATTERN, max_bytes: int = DEFAULT_MAX_BYTES
) -> Cohort:
    """Read a cohort: who is in it, where the scans lie, and whether they fit together.

    Two layouts are read. A folder in BIDS style: `participants.tsv`, and one file per row that
    matches `pattern` (sessions and any BIDS or derivative entities are fine). Or a `.tsv` with the
    columns `participant_id` and `path`, relative to that table. All other columns become labels.
    The table decides who is in: a file without a row is left out, and named in `Cohort.unlisted`.

    Args:
      path: The folder or the table.
      pattern: Glob relative to the folder; files must end in `.nii` or `.nii.gz`.
      max_bytes: Largest volume accepted, see `read_header`.

    Returns:
      The cohort; its subjects share one shape and one affine (to 1e-3 mm at every corner).

    Raises:
      FileNotFoundError: `path`, or a folder's participants.tsv, does not exist or is a pointer.
      CohortError: Everything else that is wrong, all bad rows and files at once.
    """
    path = Path(path)
    table = path / "participants.tsv" if path.is_dir() else path
    kinds = "a folder with participants.tsv, or a .tsv with the columns participant_id and path"
    if path.name.endswith(NIFTI_SUFFIXES) and not path.is_dir():
        raise CohortError(f"{path}: a scan by its name, not a cohort; give {kinds}")
    if path.is_dir() and not any(path.iterdir()):
        raise FileNotFoundError(
            f"{path}: an empty folder; give {kinds}. If it is a DataLad data set that is not here "
            f"yet: datalad get -n {shlex.quote(str(path))}"
        )
    existing_file(table, expected=kinds)
    rows, problems = read_participants(table)
    if path.is_dir():
        subjects, unlisted = _find_scans(path, rows, pattern, problems)
        name = path.resolve().name
    else:
        subjects, unlisted = _listed_scans(table, rows, problems), ()
        name = table.name.removesuffix(table.suffix)

    headers = _read_headers(subjects, max_bytes, problems)
    reference = _common_grid(headers, problems)
    if reference is None and not problems:
        problems.append(f"{table.name}: no row below its first line; add one row per subject")
    if problems or reference is None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise CohortError(f"{path}: {count} found, nothing was loaded:", problems)
    return Cohort(
        name=name,
        table=table,
        subjects=tuple(subjects),
        shape=reference.canonical_shape,
        affine=reference.canonical_affine,
        unlisted=unlisted,
        unoriented=tuple(header.path for header in headers if not header.has_orientation),
    )


def single_scan(path: Path | str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Cohort:
    """One scan, as a cohort of one subject without a name.

    Args:
      path: `.nii` or `.nii.gz`; no voxel of it is read.
      max_bytes: Largest volume accepted, see `read_header`.

    Raises:
      FileNotFoundError: No such file.
      VolumeError: The header is unusable, see `read_header`.
    """
    header = read_header(path, max_bytes=max_bytes)
    return Cohort(
        name=header.path.name.split(".")[0],
        table=header.path,
        subjects=(Subject("sub-1", header.path),),
        shape=header.canonical_shape,
        affine=header.canonical_affine,
        unoriented=() if header.has_orientation else (header.path,),
    )


def _find_scans(
    folder: Path, rows: list[Row], pattern: str, problems: list[str]
) -> tuple[list[Subject], tuple[Path, ...]]:
    if PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts or not pattern:
        raise CohortError(f"pattern={pattern!r}: expected a glob relative to {folder}")
    # Python 3.13 takes it for "*" where earlier ones refuse it: the same pattern, the same files.
    if any("**" in part and part != "**" for part in Path(pattern).parts):
        raise CohortError(f"pattern={pattern!r} is no glob: '**' stands for folders, as in '**/*x'")
    try:
        matching = sorted(folder.glob(pattern))
    except ValueError as error:
        raise CohortError(f"pattern={pattern!r} is no glob: {error}") from error
    found: dict[str, list[Path]] = {}
    for path in matching:
        if not path.name.endswith(NIFTI_SUFFIXES) or path.name.startswith("."):
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
            own = folder / row.participant_id
            fix = "remove the row, add the file, or give another pattern"
            if own.is_dir() and not any(own.iterdir()):
                # As a clone of a DataLad data set leaves what it has not installed.
                fix = (
                    f"{own} is empty; if it is DataLad's, run: datalad get {shlex.quote(str(own))}"
                )
            problems.append(
                f"participants.tsv line {row.line}: no file for {row.participant_id} matches "
                f"{pattern!r}; {fix}"
            )
        else:
            listed = ", ".join(str(path.relative_to(folder)) for path in paths)
            problems.append(
                f"participants.tsv line {row.line}: {len(paths)} files for {row.participant_id} "
                f"({listed}); give a narrower pattern, or a .tsv with a path column"
            )
    unlisted = tuple(itertools.chain.from_iterable(found.values()))
    if len(subjects) < len(rows) and found:
        # Perhaps those of the missing ones, by other names.
        problems.append(f"{len(unlisted)} scans have no row in participants.tsv: {named(found)}")
    return subjects, unlisted


def named(names: Iterable[str], *, most: int = 10) -> str:
    """Names in a row, the first of them if there are many.

    Example:
      >>> named(["sub-01", "sub-02", "sub-03"], most=2)
      'sub-01, sub-02 and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _listed_scans(table: Path, rows: list[Row], problems: list[str]) -> list[Subject]:
    subjects = []
    first_line: dict[str, int] = {}
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
        if not written.endswith(NIFTI_SUFFIXES) or "\0" in written:
            problems.append(f"{place}: path {written!r}, expected a .nii or .nii.gz file")
            continue
        scan = os.path.realpath(path)
        if scan in first_line:
            problems.append(
                f"{place}: path {written!r} is already on line {first_line[scan]}; "
                "the same scan must not be two subjects"
            )
        else:
            first_line[scan] = row.line
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
    corners = np.array(list(itertools.product(*((0, n) for n in last))))
    here, there = (apply_affine(h.canonical_affine, corners) for h in (header, reference))
    return float(np.linalg.norm(here - there, axis=1).max())
