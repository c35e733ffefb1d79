"""Images of cached volumes, by number: slices, volumes or patches, of one scan or of several."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32, Float64
from nibabel.affines import apply_affine

from featvis_jax.data.cache import CachedVolume
from featvis_jax.data.cohorts import Cohort
from featvis_jax.data.grids import Grid, GridError, Placement, centred, described, placement
from featvis_jax.data.masks import usable_slices
from featvis_jax.data.patches import Patches


@dataclasses.dataclass(frozen=True, eq=False)
class Slices:
    """The usable axial slices of some subjects, as a random-access source of images.

    Attributes:
      volumes: The subjects' cached volumes.
      shape: Of every slice.
      placement: How it is cut out of a subject's axial slice; from the centre by default.
      heights: Lowest and highest index of a slice that counts; all by default.
      affine: Of the volumes, voxel indices to mm; None where nobody knows, or nobody asks.
      index: ``(volume number, z)`` of every slice.
    """

    volumes: Sequence[CachedVolume]
    shape: tuple[int, int]
    placement: Placement | None = None
    heights: tuple[int, int] | None = None
    affine: Float64[np.ndarray, "4 4"] | None = None
    index: Sequence[tuple[int, int]] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """List the slices."""
        index = [
            (number, int(z))
            for number, volume in enumerate(self.volumes)
            for z in usable_slices(volume.brain_fraction)
            if self.heights is None or self.heights[0] <= z <= self.heights[1]
        ]
        object.__setattr__(self, "index", tuple(index))

    def __len__(self) -> int:
        """Number of slices over all subjects."""
        return len(self.index)

    def __getitem__(self, position: int) -> Float32[np.ndarray, "x y 1"]:
        """One slice, read from disk."""
        return self.plane(*self.index[position])

    def plane(self, number: int, z: int) -> Float32[np.ndarray, "x y 1"]:
        """The slice of a volume at an index along its third axis, usable or not."""
        volume = self.volumes[number]
        plane = np.asarray(volume.open()[z], np.float32)
        placed = self.placement or centred(plane.shape, self.shape)
        return placed(plane, outside=volume.outside)[..., None]

    def height_mm(self, position: int) -> float | None:
        """How high in the world the middle of a slice lies; None where nobody knows."""
        if self.affine is None:
            return None
        number, z = self.index[position]
        sides = self.volumes[number].shape[1:]
        placed = self.placement or centred(sides, self.shape)
        middle = np.array([0.0, 0.0, z, 1.0])
        for axis, flip, first, side in zip(
            placed.axes, placed.flips, placed.start, placed.shape, strict=True
        ):
            centre = first + (side - 1) / 2
            middle[axis] = sides[axis] - 1 - centre if flip else centre
        return float((self.affine @ middle)[2])

    def owner(self, position: int) -> str:
        """The participant whose slice this is."""
        return self.volumes[self.index[position][0]].participant_id

    def place(self, position: int) -> str:
        """What the slice is called in a message."""
        return f"{self.owner(position)}, axial slice {self.index[position][1]}"


@dataclasses.dataclass(frozen=True, eq=False)
class Volumes:
    """Whole volumes of some subjects, as a random-access source of images.

    Attributes:
      volumes: The subjects' cached volumes.
      shape: Of every volume.
      placement: How it is cut out of a subject's; from the centre by default.
    """

    volumes: Sequence[CachedVolume]
    shape: tuple[int, int, int]
    placement: Placement | None = None

    def __len__(self) -> int:
        """Number of subjects."""
        return len(self.volumes)

    def __getitem__(self, position: int) -> Float32[np.ndarray, "x y z 1"]:
        """One volume, read from disk."""
        volume = self.volumes[position]
        data = np.moveaxis(np.asarray(volume.open(), np.float32), 0, -1)
        placed = self.placement or centred(data.shape, self.shape)
        return placed(data, outside=volume.outside)[..., None]

    def owner(self, position: int) -> str:
        """The participant whose volume this is."""
        return self.volumes[position].participant_id

    def place(self, position: int) -> str:
        """What the volume is called in a message."""
        return self.owner(position)


@dataclasses.dataclass(frozen=True, eq=False)
class Contrasts:
    """Several scans of each subject, as the channels of one image.

    Attributes:
      sources: One for each contrast, all slices, all volumes or all patches, of the same subjects
        in one order and on one grid. Which slices or patches are usable, the first one decides.
    """

    sources: Sequence[Slices | Volumes | Patches]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sources[0])

    def __getitem__(self, position: int) -> Float32[np.ndarray, "*spatial channels"]:
        """One image of all contrasts, read from disk."""
        first = self.sources[0]
        if isinstance(first, Slices):
            number, z = first.index[position]
            planes = (each.plane(number, z) for each in self.sources if isinstance(each, Slices))
            return np.concatenate(list(planes), axis=-1)
        if isinstance(first, Patches):
            of = first.index[position]
            boxes = (each.patch(*of) for each in self.sources if isinstance(each, Patches))
            return np.concatenate(list(boxes), axis=-1)
        return np.concatenate([each[position] for each in self.sources], axis=-1)

    @property
    def volumes(self) -> Sequence[CachedVolume]:
        """The volumes of all subjects and contrasts."""
        return [volume for each in self.sources for volume in each.volumes]

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape of every image."""
        return self.sources[0].shape

    def owner(self, position: int) -> str:
        """The participant whose image this is."""
        return self.sources[0].owner(position)

    def place(self, position: int) -> str:
        """What the image is called in a message."""
        return self.sources[0].place(position)


Source = Slices | Volumes | Patches | Contrasts


def kind(source: Source) -> str:
    """What the images of a source are, in a word: slices, volumes or patches.

    Args:
      source: The source.

    Example:
      >>> kind(Volumes([], (4, 5, 6))), kind(Contrasts([Slices([], (4, 5))]))
      ('volumes', 'slices')
    """
    first = source.sources[0] if isinstance(source, Contrasts) else source
    return type(first).__name__.lower()


def source(
    volumes: Sequence[CachedVolume],
    shape: Sequence[int],
    *,
    placement: Placement | None = None,
    heights: tuple[int, int] | None = None,
    affine: Float64[np.ndarray, "4 4"] | None = None,
    anywhere: bool = False,
) -> Slices | Volumes | Patches:
    """The images of some subjects: axial slices for a shape of two numbers, volumes for three.

    Args:
      volumes: The subjects' cached volumes.
      shape: Spatial shape of an image.
      placement: Where an image's voxels are in a volume (`cohort_placement`); by default images are
        cut from the centre, and whoever does so has to know that this is their place.
      heights: Lowest and highest index of slices (`slices_between`); all by default.
      affine: Of the volumes, voxel indices to mm, where slices should know how high they lie.
      anywhere: Whether images are patches, from anywhere in the brain.

    Raises:
      ValueError: A patch is larger than a scan.
    """
    if anywhere:
        return Patches(volumes, tuple(shape), placement)
    if len(shape) == 2:
        return Slices(volumes, (shape[0], shape[1]), placement, heights, affine)
    return Volumes(volumes, (shape[0], shape[1], shape[2]), placement)


def slices_between(cohort: Cohort, heights_mm: Sequence[float]) -> tuple[int, int]:
    """Lowest and highest index of a cohort's axial slices between two heights.

    Args:
      cohort: The cohort.
      heights_mm: The lower and the upper one, in the world.

    Raises:
      GridError: No slice lies between them.
    """
    x, y, z = cohort.shape
    middles = np.column_stack([np.full(z, x // 2), np.full(z, y // 2), np.arange(z)])
    heights = apply_affine(cohort.affine, middles)[:, 2]
    low, high = heights_mm
    found = np.flatnonzero((low <= heights) & (heights <= high))
    if not len(found):
        raise GridError(
            f"no axial slice lies between {low:g} and {high:g} mm; the cohort's lie between "
            f"{heights.min():g} and {heights.max():g} mm"
        )
    return int(found[0]), int(found[-1])


def cohort_placement(cohort: Cohort, grid: Grid) -> Placement:
    """Where the images of a network's grid are in a cohort's volumes, by their places in the world.

    Args:
      cohort: The cohort.
      grid: Of the network's input. One of slices stands for slices at any height, and one of
        patches for any place; without an affine it has to have the shape of the cohort's images.

    Returns:
      What `source` takes.

    Raises:
      GridError: The voxels of the two do not coincide, or are nowhere near each other.
    """
    have, rank = cohort.shape, len(grid.shape)
    if grid.affine is None:
        if have[:rank] != grid.shape:
            raise GridError(
                f"the network takes {described(grid)} and does not tell where it looks: give "
                "--grid with an image of its grid"
            )
        return centred(have, grid.shape)
    scans = Grid(have, cohort.affine)
    placed = placement(scans, grid, any_slice=True, any_place=grid.anywhere)
    placed = placed.in_plane() if rank == 2 else placed
    if not grid.anywhere and any(
        n >= m for n, m in zip(placed.outside(have), placed.shape, strict=True)
    ):
        raise GridError("they lie beside the network's grid, not on it")
    return placed


def intensity_statistics(source: Source, *, max_images: int = 500) -> tuple[float, float]:
    """Mean and standard deviation of the intensities, from images spread evenly over the source.

    Args:
      source: Where images come from.
      max_images: At most this many are read.
    """
    sums = np.zeros(3)
    for image in spread(source, max_images=max_images):
        image = image.astype(np.float64)
        sums += image.size, image.sum(), (image**2).sum()
    mean = sums[1] / sums[0]
    return float(mean), float(np.sqrt(sums[2] / sums[0] - mean**2))


def over_people(source: Source, count: int) -> tuple[int, ...]:
    """Some images, one of each person before a second one of anybody.

    The people are spread evenly over the source. So are slices over what each person has of them,
    from the lowest to the highest, in an order that does not follow that of the people.

    Args:
      source: Where images come from.
      count: How many.

    Returns:
      Their positions, no two alike.

    Raises:
      ValueError: There are not so many.
    """
    if count > len(source):
        raise ValueError(f"there are {len(source)} images; {count} are wanted.")
    own: dict[str, list[int]] = {}
    for position in range(len(source)):
        own.setdefault(source.owner(position), []).append(position)
    people: list[str] = []
    while len(people) < count:
        left = [person for person in own if len(own[person]) > people.count(person)]
        places = np.linspace(0, len(left) - 1, min(count - len(people), len(left)))
        people += [left[int(place)] for place in places.round()]
    # Shares of the golden ratio lie evenly, and far from those of their neighbours.
    heights = np.argsort(np.argsort(np.arange(count) * (np.sqrt(5) - 1) / 2 % 1))
    found: list[int] = []
    for person, height in zip(people, heights, strict=True):
        free = [position for position in own[person] if position not in found]
        wanted = own[person][int((height + 0.5) / count * len(own[person]))]
        found.append(min(free, key=lambda position: abs(position - wanted)))
    return tuple(found)


def spread(
    source: Source, *, max_images: int
) -> Iterator[Float32[np.ndarray, "*spatial channels"]]:
    """Images spread evenly over a source.

    Args:
      source: Where images come from.
      max_images: At most this many are read.

    Yields:
      Images, ``(*spatial, channels)``.
    """
    for position in np.linspace(0, len(source) - 1, min(len(source), max_images)).astype(int):
        yield source[int(position)]
