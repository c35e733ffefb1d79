"""Where the windows of a convolution or a pooling lie."""

from __future__ import annotations

from typing import NamedTuple

from featvis_jax.importers.onnx.operators.registry import Node

Pads = tuple[tuple[int, int], ...]


class Windows(NamedTuple):
    """The windows of one node, one entry per spatial axis.

    Attributes:
      size: Elements of a window.
      strides: The step between two windows.
      dilations: The step between two elements of a window.
      pads: Elements before and after the image, as the node has them.
      overhang: More elements after the image, which rounding up asks for.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads
    overhang: tuple[int, ...]

    @property
    def all_pads(self) -> Pads:
        """The padding with the overhang."""
        return tuple(
            (low, high + more) for (low, high), more in zip(self.pads, self.overhang, strict=True)
        )


def windows(node: Node, spatial: tuple[int, ...], size: tuple[int, ...]) -> Windows:
    """Read the windows off a node's attributes.

    Args:
      node: A convolution or a pooling.
      spatial: The image's spatial shape.
      size: Elements of a window.
    """
    rank = len(spatial)
    if len(size) != rank:
        raise node.refuse(f"its window {size} does not fit an image with spatial shape {spatial}.")
    strides = tuple(node.attributes.get("strides", (1,) * rank))
    dilations = tuple(node.attributes.get("dilations", (1,) * rank))
    extents = [(k - 1) * d + 1 for k, d in zip(size, dilations, strict=True)]
    pads = _pads(node, spatial, strides, extents)
    overhang = [0] * rank
    if node.attributes.get("ceil_mode", 0):
        for i in range(rank):
            padded = spatial[i] + sum(pads[i])
            count = -(-(padded - extents[i]) // strides[i]) + 1
            # A window that would begin in the padding behind the image is left out.
            if (count - 1) * strides[i] >= spatial[i] + pads[i][0]:
                count -= 1
            overhang[i] = max(0, (count - 1) * strides[i] + extents[i] - padded)
    return Windows(size, strides, dilations, pads, tuple(overhang))


def _pads(
    node: Node, spatial: tuple[int, ...], strides: tuple[int, ...], extents: list[int]
) -> Pads:
    rank, mode = len(spatial), node.attributes.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        flat = tuple(node.attributes.get("pads", (0,) * (2 * rank)))
        return tuple(zip(flat[:rank], flat[rank:], strict=True))
    if mode == "VALID":
        return ((0, 0),) * rank
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.refuse(f"auto_pad is {mode!r}; expected NOTSET, VALID or SAME_UPPER or _LOWER.")
    pads = []
    for n, stride, extent in zip(spatial, strides, extents, strict=True):
        total = max((-(-n // stride) - 1) * stride + extent - n, 0)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(pads)
