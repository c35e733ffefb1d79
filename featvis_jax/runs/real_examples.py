"""The real images that drive each channel most, for the pages of a run.

They are participant data: nothing is written unless `real_examples` asks for it, and subject ids
are left out.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from featvis_jax.data.sources import Source
from featvis_jax.evaluation.examples import cell_box, receptive_box, top_examples
from featvis_jax.models import Model
from featvis_jax.options import Options, option
from featvis_jax.progress import callback
from featvis_jax.results import encoding, panels, pixels
from featvis_jax.results.files import atomic_write_bytes, make_directory
from featvis_jax.results.store import RunView


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealExamplesOptions(Options):
    """Real scans beside the pictures."""

    real_examples: str | None = option(
        None,
        "A cohort; the page of each channel shows those of its scans that drive the channel most, "
        "without subject ids. They are participant data, so none are shown by default. With "
        "several input channels, the scans of each end in its name: `channel_names=T1w,FLAIR` "
        "takes sub-*/anat/*_T1w.nii.gz and *_FLAIR.nii.gz.",
    )


_EXAMPLES = 4
_GAP = 4
_BOX = np.array([230, 120, 30], np.uint8)


def write(
    run: RunView, model: Model, source: Source, channels: Mapping[str, Sequence[int]]
) -> None:
    """Write for every channel a picture of the images that drive it most, and a table.

    The picture of a volume is its axial slice through the place where the channel is strongest. A
    frame shows the voxels that this place sees, or where it lies if it sees all of them.

    Args:
      run: The run.
      model: The network.
      source: The images.
      channels: Channels by layer.
    """
    batch_size = 32 if len(model.image_shape) == 3 else 1
    rows: list[dict[str, object]] = []
    for name, wanted in channels.items():
        layer = model.network.layer(name)
        look = cell_box if layer.receptive_field is None else receptive_box
        with callback(f"real images, {name}", unit="image") as on_images:
            found = top_examples(
                model.network,
                name,
                source,
                count=_EXAMPLES,
                batch_size=batch_size,
                progress=on_images,
            )
        for channel in wanted:
            # A row for every contrast, and in each the same images.
            contrasts: list[list[np.ndarray]] = [[] for _ in run.input_channels.labels]
            for number, place in zip(found.image[channel], found.place[channel], strict=True):
                box = look(layer, place, model.image_shape)
                seen = run.input_channels.seen(source[int(number)])
                for pictures, image in zip(contrasts, seen, strict=True):
                    pictures.append(_framed(image, box, window=model.intensity_range))
            path = run.real_path(name, channel)
            make_directory(path.parent)
            rows_of = [_in_a_row(pictures) for pictures in contrasts]
            shown = panels.stacked(rows_of, run.input_channels.labels)
            atomic_write_bytes(path, pixels.encode_png(shown))
            rows.append(
                {
                    "layer": name,
                    "channel": channel,
                    "largest_mean": float(found.score[channel, 0]),
                    "largest": float(found.largest[channel]),
                }
            )
    atomic_write_bytes(run.directory / "real.tsv", encoding.encode_rows(rows, digits=6))


def _framed(
    image: Float[np.ndarray, "*spatial 1"],
    box: Int[np.ndarray, "rank 2"],
    *,
    window: tuple[float, float],
) -> UInt8[np.ndarray, "height width 3"]:
    """One image with the frame of a box of voxels; of a volume the slice through its middle."""
    if len(box) == 3:
        image = image[:, :, int(box[2].sum() - 1) // 2]
    grey = pixels.picture(image, window=window)
    coloured = np.repeat(grey[..., None], 3, axis=-1)
    (left, right), (bottom, top) = box[:2]
    height = len(grey)
    rows, columns = slice(height - top, height - bottom), slice(left, right)
    frame = np.zeros(grey.shape, bool)
    frame[rows, columns] = True
    inner = (slice(height - top + 1, height - bottom - 1), slice(left + 1, right - 1))
    frame[inner] = False
    coloured[frame] = _BOX
    return coloured


def _in_a_row(
    pictures: Sequence[UInt8[np.ndarray, "height width 3"]],
) -> UInt8[np.ndarray, "height whole 3"]:
    """Pictures side by side on white."""
    gap = np.full((pictures[0].shape[0], _GAP, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)
