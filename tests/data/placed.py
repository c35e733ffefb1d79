"""Images that lie somewhere in the world, drawn at random, and what they are on a grid.

Every function takes a `random.Random`, as in `tests/data/mutations.py`.
"""

import gzip
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import nibabel
import numpy as np
from nibabel.orientations import ornt_transform
from scipy.spatial.transform import Rotation

from featvis_jax.data.errors import VolumeError
from featvis_jax.data.grids import Grid

# Nobody can say whether voxels this far apart, in voxels, are the same.
_UNCLEAR = (0.002, 0.1)
_DTYPES = (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64)


class Case(NamedTuple):
    """A file and the grid that it is wanted on.

    Attributes:
      path: The file.
      grid: The grid.
      channels: How many the file has.
      fits: Whether it has to be read; None if damage decides.
    """

    path: Path
    grid: Grid
    channels: int
    fits: bool | None


def grid(random: Random) -> Grid:
    """A small grid of two or three dimensions in any orientation, or without one."""
    shape = tuple(random.randint(2, 6) for _ in range(random.choice((2, 3, 3))))
    if random.random() < 0.1:
        return Grid(shape, None)
    affine = np.eye(4)
    sizes = random.choice(((1, 1, 1), (2, 2, 2), (0.8, 1, 3)))
    signs = np.array([random.choice((-1, 1)) for _ in range(3)])
    axes = np.eye(3)[random.sample(range(3), 3)] * signs
    if random.random() < 0.3:
        angles = [random.uniform(-30, 30) for _ in range(3)]
        axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ axes
    affine[:3, :3] = axes * sizes
    affine[:3, 3] = [random.uniform(-90, 90) for _ in range(3)]
    return Grid(shape, affine)


def case(random: Random, folder: Path, *, damage: float = 0.3) -> Case:
    """A file that lies on a grid, elsewhere, or is damaged; in any orientation and encoding."""
    wanted, channels = grid(random), random.choice((1, 1, 1, 3))
    image, fits = _image(random, wanted, channels)
    suffix = random.choice((".nii", ".nii.gz"))
    content = bytearray(image.to_bytes())
    damaged = random.random() < damage
    if damaged and random.random() < 0.6:
        _damage(random, content)
    elif damaged:
        suffix = ".nii.gz"
    packed = gzip.compress(content, 1, mtime=0) if suffix == ".nii.gz" else bytes(content)
    if damaged and suffix == ".nii.gz" and random.random() < 0.7:
        changed = bytearray(packed)
        _damage(random, changed)
        packed = bytes(changed)
    path = folder / f"image{suffix}"
    path.write_bytes(packed)
    return Case(path, wanted, channels, None if damaged else fits)


def on_grid(path: Path, wanted: Grid) -> np.ndarray | None:
    """What nibabel and the world coordinates of every voxel say the file is on a grid.

    Returns:
      `(*grid.shape, channels)`; None if it is nothing there.

    Raises:
      ValueError: Nobody can say.
      Exception: Nibabel cannot read it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = nibabel.load(path)
        values = np.asarray(image.dataobj, np.float32)
    while values.ndim < 3:
        values = values[..., None]
    values = values.reshape(*values.shape[:3], -1)
    if wanted.affine is None:
        if values.shape[:3] != wanted.box:
            return None
        return values.reshape(*wanted.shape, -1)
    if not (image.header["qform_code"] > 0 or image.header["sform_code"] > 0):
        return None
    voxels = np.array(list(itertools.product(*map(range, wanted.box))))
    world = nibabel.affines.apply_affine(wanted.affine, voxels)
    there = nibabel.affines.apply_affine(np.linalg.inv(image.affine), world)
    nearest = np.round(there)
    apart = np.abs(there - nearest).max()
    if _UNCLEAR[0] < apart < _UNCLEAR[1]:
        raise ValueError("nobody can say whether these voxels are the same")
    if apart > _UNCLEAR[0] or (nearest < 0).any() or (nearest >= values.shape[:3]).any():
        return None
    indices = tuple(nearest.astype(int).T)
    return values[indices].reshape(*wanted.shape, -1)


def _image(random: Random, wanted: Grid, channels: int) -> tuple[nibabel.Nifti1Image, bool]:
    """An image on a grid or elsewhere, and whether it covers the grid."""
    affine = np.diag([2.0, 2, 2, 1]) if wanted.affine is None else wanted.affine.copy()
    fits = True
    before = after = np.zeros(3, int)
    if random.random() < 0.4:
        before, after = (np.array([random.randint(0, 3) for _ in range(3)]) for _ in range(2))
    shape = before + wanted.box + after
    affine[:3, 3] -= affine[:3, :3] @ before
    if wanted.affine is None:
        fits = not (before.any() or after.any())
    elif random.random() < 0.3:
        fits = False
        _move(random, affine, shape)
    dtype = random.choice(_DTYPES)
    data = np.random.default_rng(random.randrange(2**32)).integers(0, 200, (*shape, channels))
    kind = random.choice((nibabel.Nifti1Image, nibabel.Nifti2Image))
    header = kind.header_class(endianness=random.choice("<>"))
    header.set_data_dtype(dtype)
    image = kind(data.astype(dtype), affine, header)
    if wanted.affine is not None:
        turn = [(axis, random.choice((-1, 1))) for axis in random.sample(range(3), 3)]
        plain = np.array([(axis, 1) for axis in range(3)])
        image = image.as_reoriented(ornt_transform(plain, np.array(turn)))
    return _encoded(random, image, channels, fits, wanted)


def _encoded(
    random: Random, image: nibabel.Nifti1Image, channels: int, fits: bool, wanted: Grid
) -> tuple[nibabel.Nifti1Image, bool]:
    """The image with other axes, scaling and codes of its header."""
    values = np.asarray(image.dataobj)
    if channels == 1:
        extra = random.choice(((), (), (1,), (1, 1)))
        values = values.reshape(*values.shape[:3], *extra)
        if values.shape[2:] == (1,) and random.random() < 0.5:
            values = values[..., 0]
    elif random.random() < 0.3:
        values = values.reshape(*values.shape[:3], 1, channels)
    encoded = type(image)(values, image.affine, image.header)
    encoded.header.set_data_dtype(values.dtype)
    codes = random.choice(((1, 1), (2, 0), (0, 4), (0, 0)))
    encoded.set_sform(image.affine, codes[0])
    encoded.set_qform(image.affine, codes[1])
    if random.random() < 0.3:
        encoded.header.set_slope_inter(random.choice((0.5, 2.0, -1.0)), random.choice((0, 3.0)))
    return encoded, fits and (wanted.affine is None or any(codes))


def _move(random: Random, affine: np.ndarray, shape: np.ndarray) -> None:
    """Puts the image where it does not lie on the grid any more."""
    kind = random.randrange(4)
    if kind == 0:  # By whole voxels: beyond any padding.
        axis = random.randrange(3)
        affine[:3, 3] += affine[:3, axis] * random.choice((-1, 1)) * (shape[axis] + 4)
    elif kind == 1:  # By a part of one, along an axis or not.
        affine[:3, 3] += affine[:3, :3] @ [random.uniform(0.15, 0.85) for _ in range(3)]
    elif kind == 2:
        turn = Rotation.from_rotvec(np.radians([random.uniform(10, 80), 0, 0])).as_matrix()
        affine[:3, :3] = turn @ affine[:3, :3]
        affine[:3, 3] += affine[:3, :3] @ [0.3, 0.4, 0.3]
    else:
        affine[:3, :3] *= random.choice((0.5, 1.1, 3.0))
        affine[:3, 3] += affine[:3, :3] @ [0.3, 0.4, 0.3]


def _damage(random: Random, content: bytearray) -> None:
    kind = random.randrange(4)
    place = random.randrange(len(content))
    if kind == 0:
        del content[place:]
    elif kind == 1:
        content[place] ^= 1 << random.randrange(8)
    elif kind == 2:
        place = random.randrange(min(len(content), 352))
        content[place] = random.randrange(256)
    else:
        content[place : place + random.choice((1, 4, 50))] = b""


def outcome(case: Case, read: Callable[[], np.ndarray]) -> str:
    """What became of a case: "read" or "refused", or what is wrong with it.

    Args:
      case: The case.
      read: Reads it onto its grid.
    """
    try:
        found = read()
    except (ValueError, FileNotFoundError) as error:
        return refused(case, error)
    if case.fits is False:
        return "silent difference: read from elsewhere"
    try:
        expected = on_grid(case.path, case.grid)
    except Exception:
        # What nibabel refuses and we do not, or nobody can say, it reads no other way.
        return "read"
    if expected is None or not np.allclose(found, expected, rtol=1e-6, equal_nan=True):
        return "silent difference"
    return "read"


def refused(case: Case, error: Exception) -> str:
    """Whether an error is one line that names the file of a case that is no good."""
    if case.fits:
        return f"refused without a reason: {error}"
    ours = type(error) in (ValueError, VolumeError, FileNotFoundError)
    named = str(case.path) in str(error) and "\n" not in str(error)
    return "refused" if ours and named else f"unnamed error: {type(error).__name__}: {error}"
