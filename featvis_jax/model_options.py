"""Options of a network: which one it is, and what a user says of its images."""

from __future__ import annotations

import dataclasses
import math

from featvis_jax.data.intensities import SCALINGS
from featvis_jax.options import Options, option, shown_value
from featvis_jax.ranges import Range, Ranges

MODEL_HELP = (
    "A zoo name; the directory of a trained model; NET.onnx; FILE.py:FUNCTION, which returns "
    "(Linen module, variables, image_shape), (NNX module, image_shape), (function of weights and "
    "images, weights, image_shape), or a PyTorch module, alone or with an example of its input; "
    "NET.pt2 or TorchScript; the directory of a MONAI bundle; or WEIGHTS.safetensors of the "
    "paper's network in PyTorch's layout."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputOptions(Options):
    """Images that the network expects."""

    grid: str | None = option(
        None,
        "A NIfTI file on the grid of the network's input, whose affine is used, for a network that "
        "has none of its own (ONNX, .py, safetensors). It has as many voxels as the input along "
        "each stored axis (one slice for a network of slices). Without it, images of such a "
        "network have no orientation, and files are placed on its grid by the order in which "
        "their axes are stored.",
    )
    scaling: str | None = option(
        None,
        "How each scan was scaled when the network was trained: unit to 0..1, by its percentiles; "
        "zscore to a mean of 0 and a standard deviation of 1; zscore_nonzero likewise, but over "
        "the voxels that are not 0, and zeros stay 0; raw for none at all, as for CT in Hounsfield "
        "units. Scans of `reference`, `real_examples`, "
        "`start_image` and `hold` are scaled in the same way before the network sees them. Without "
        "it, those of a cohort are scaled by unit, and single files have to be scaled already.",
        choices=tuple(SCALINGS),
    )
    intensity_range: tuple[float, ...] | None = option(
        None,
        "LOW,HIGH: the range of a foreign network's images, and so of its pictures; or a pair for "
        "each input channel, in order, such as 0,1,-1024,3071. 0,1 by default; for z-scores and "
        "raw intensities the range of the scans of `reference`, from percentile 0.1 to 99.9, of "
        "each channel.",
    )
    channel_names: tuple[str, ...] | None = option(
        None,
        "Names of the input channels, in order, such as T1w,T1ce,T2w,FLAIR: letters and digits, "
        "like the suffixes of BIDS; channel0,channel1,... by default. Other channels are shown as "
        "panels side by side; rgb makes one colour picture of red, green and blue, whose axes are "
        "(rows, columns).",
    )

    @property
    def ranges(self) -> Ranges | None:
        """The pairs of `intensity_range`, which `scaling` does not contradict.

        Raises:
          ValueError: It does, or they are no ranges.
        """
        ends = self.intensity_range
        if ends is None:
            return None
        found = tuple(zip(ends[::2], ends[1::2], strict=False))
        if not ends or len(ends) % 2:
            raise ValueError(
                f"`intensity_range={shown_value(ends)}`: {len(ends)} values; expected LOW,HIGH, or "
                "such a pair for each input channel."
            )
        for between in found:
            self._check(between, among=found)
        return found

    def _check(self, between: Range, *, among: Ranges) -> None:
        """Refuse a pair that is no range of intensities that are scaled in this way."""
        low, high = between
        shown = f"`intensity_range={shown_value(self.intensity_range)}`"
        shown += f": {low:g},{high:g}" if len(among) > 1 else ""
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"{shown}: expected LOW,HIGH, LOW < HIGH.")
        if self.scaling is not None:
            chosen = SCALINGS[self.scaling]
            if chosen.is_centred and not low < 0 < high:
                raise ValueError(
                    f"{shown}: the z-scores of `scaling={self.scaling}` lie around 0; expected a "
                    "range such as -2,4, or leave it out and give `reference=DIR`, whose scans "
                    "have a range."
                )
            if chosen.ends == (0, 1) and not 0 <= low < high <= 1:
                raise ValueError(
                    f"{shown}: `scaling={self.scaling}` scales scans to 0..1; expected a part of "
                    "that range, or leave one of the two out."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions(InputOptions):
    """The network."""

    model: str | None = option(None, MODEL_HELP)
    input_shape: tuple[int, ...] | None = option(
        None, "X,Y[,Z],CHANNELS, for a model that accepts images of any size."
    )
    random_weights: int | None = option(
        None,
        "Seed with which the values of every weight tensor are shuffled: a control for pictures.",
        least=0,
        most=2**32 - 1,
    )
