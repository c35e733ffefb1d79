"""The layers of a network as a table for people."""

from __future__ import annotations

from featvis_jax import memory
from featvis_jax.maximize import planning
from featvis_jax.nn.network import Layer, Network


def layers_text(network: Network) -> str:
    """A table of the layers: name, operator, output, channels, reach, and what fits into memory.

    Of a layer of tokens, the output is the grid of those that are places of the image, and how many
    others there are in front of them or behind: ``1 + 4 x 3``.

    Example:
      >>> from featvis_jax.models import load
      >>> print(layers_text(load("square-lesion").network).splitlines()[1][:64])
      conv1  Conv      138 x 190         8                3       1
    """
    head = ("layer", "operator", "output", "channels", "receptive field", "stride")
    head = (*head, "MiB per unit*", "units that fit")
    free = memory.free_bytes()
    rows = []
    for layer in network.layers:
        needed = planning.estimated_unit_bytes(network, layer.name)
        rows.append(
            (
                layer.name,
                layer.operator,
                _places(layer),
                str(layer.channels),
                "all" if layer.receptive_field is None else str(layer.receptive_field),
                "-" if layer.stride is None else str(layer.stride),
                f"{needed / 2**20:.1f}" if needed > 0.05 * 2**20 else "< 0.1",
                str(free // needed),
            )
        )
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join((*left, *right)).rstrip())
    lines.append(
        f"* an estimate from the shapes of the outputs; {free / 2**30:.1f} GiB may be used. "
        "--dry_run compiles and measures."
    )
    lines.extend(f"No layer: {name}, since {why}" for name, why in network.refused)
    return "\n".join(lines)


def _places(layer: Layer) -> str:
    if layer.tokens is not None:
        return str(layer.tokens)
    return " x ".join(map(str, layer.shape[:-1])) or "-"
