"""Options of a network: which one it is, and what a user says of its images."""

from __future__ import annotations

import dataclasses

import numpy as np

from featvis_jax.data.intensities import SCALINGS
from featvis_jax.options import Options, option, shown_value

MODEL_HELP = (
    "A zoo name; the directory of a trained model; NET.onnx; FILE.py:FUNCTION, which returns "
    "(Linen module, variables, image_shape), (NNX module, image_shape), (function of weights and "
    "images, weights, image_shape), or a PyTorch module, alone or with an example of its input; "
    "NET.pt2 or TorchScript; the directory of a MONAI bundle; or WEIGHTS.safetensors of the "
    "paper's network in PyTorch's layout."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesToldOf(Options):
    """What a user says of the images that a network takes."""

    grid: str | None = option(
        None,
        "A NIfTI file on the grid of the network's input, for a network that does not tell where "
        "it looks (ONNX, .py, safetensors): as many voxels along its axes as they are stored (one "
        "slice for a network of slices); its affine is taken. Without one, images of such a "
        "network have no orientation, and files that go onto its grid are taken by their axes as "
        "they lie.",
    )
    scaling: str | None = option(
        None,
        "How the scans that the network was trained on were scaled, each by itself: unit to 0..1, "
        "by its percentiles; zscore to a mean of 0 and a standard deviation of 1; zscore_nonzero "
        "to the same over its voxels that are not 0, which stay 0. Scans of `reference`, "
        "`real_examples`, `start_image` and `hold` are scaled so before the network sees them. "
        "Without it those of a cohort are by unit, and single files have to be scaled already.",
        choices=tuple(SCALINGS),
    )
    intensity_range: tuple[float, float] | None = option(
        None,
        "LOW,HIGH of a foreign network's images: between them pictures are drawn. 0,1 by default; "
        "for z-scores what the scans of `reference` span, from percentile 0.1 to 99.9.",
    )
    channel_names: tuple[str, ...] | None = option(
        None,
        "Names of the input channels, in their order, such as T1w,T1ce,T2w,FLAIR: letters and "
        "digits, as the suffixes of BIDS are; channel0,channel1,... by default. rgb stands for "
        "red, green and blue of (rows, columns): one picture in colour, where other channels are "
        "panels side by side.",
    )

    @property
    def between(self) -> tuple[float, float] | None:
        """The ends of `intensity_range`, which `scaling` does not contradict.

        Raises:
          ValueError: It does, or they are no range.
        """
        if self.intensity_range is None:
            return None
        low, high = self.intensity_range
        shown = f"`intensity_range={shown_value(self.intensity_range)}`"
        if not low < high or not np.isfinite([low, high]).all():
            raise ValueError(f"{shown}: expected LOW,HIGH, LOW < HIGH.")
        if self.scaling is not None:
            is_centred = SCALINGS[self.scaling].is_centred
            if is_centred and not low < 0 < high:
                raise ValueError(
                    f"{shown}: z-scores, which `scaling={self.scaling}` asks for, lie around 0; "
                    "expected a range such as -2,4, or leave it out and give `reference=DIR`, "
                    "whose scans tell."
                )
            if not is_centred and not 0 <= low < high <= 1:
                raise ValueError(
                    f"{shown}: `scaling={self.scaling}` brings scans to 0..1; expected a part of "
                    "that, or leave one of the two out."
                )
        return low, high


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions(ImagesToldOf):
    """Which network, and what a user says of it."""

    model: str | None = option(None, MODEL_HELP)
    input_shape: tuple[int, ...] | None = option(
        None, "X,Y[,Z],CHANNELS where the model leaves its grid open."
    )
    random_weights: int | None = option(
        None,
        "Put the values of every tensor of the network's weights in a random order, by this seed: "
        "a control for pictures.",
        least=0,
        most=2**32 - 1,
    )
