"""What the rest of the package knows of a network: pure functions, weights, and names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from featvis_jax.nn.tokens import Tokens
from featvis_jax.types import Activations, Image, Key

Variables = PyTree[Array]
Channel = Int[Array, ""]
Place = tuple[Int[Array, ""] | int, ...]
Changes = Mapping[str, Callable[[Array], Array]]
"""What is made of the outputs of some layers, by the layers' own names."""

_RELU = "/relu"


class Layer(NamedTuple):
    """What one layer puts out.

    Attributes:
      name: The module's path, ``block1/conv`` for a nested one in Flax and ``block1.conv`` in
        PyTorch, the name of an ONNX node, or what a function calls it.
      operator: The module's class, or the operator of an ONNX node.
      shape: Of the output for one image, ``(*spatial, channels)``, ``(tokens, channels)`` or
        ``(channels,)``.
      receptive_field: Input voxels per axis that reach one output; ``None`` where all do.
      stride: Input voxels between two neighbouring outputs; ``None`` where there are none.
      has_weights: Whether the layer has parameters of its own.
      tokens: Of a sequence, which of its elements are places of the image; ``None`` for any other
        layer, and where it is not known.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    receptive_field: int | None
    stride: int | None
    has_weights: bool
    tokens: Tokens | None = None

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.shape[-1]


class Network(NamedTuple):
    """A trained network as the ascent sees it: pure functions, weights, and names.

    Attributes:
      activations: ``(variables, image, layers, changes={}) -> {layer: output}`` for one unbatched
        image. ``changes``, ``{layer: output -> output}``, says what is made of the outputs of some
        layers before anything reads them: an ablation, or a gradient in the middle of a network.
      one_channel: ``(variables, image, layer, channel, place=None) -> {layer: output}`` where the
        output has that channel alone, computed without the others where that is possible; with a
        place, an index along each axis of the layer's grid, at that place alone, out of no more of
        the image than it sees.
      variables: The weights, an argument of both functions.
      image_shape: ``(*spatial, channels)`` of the input.
      layers: Every layer in the order of the forward pass.
      refused: Names of what cannot be taken for a layer, each with the reason.
      aliases: Other names of layers, such as those that a file has for them, each with the layer's.
    """

    activations: Callable[..., Activations]
    one_channel: Callable[..., Activations]
    variables: Variables
    image_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    refused: tuple[tuple[str, str], ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()

    def layer(self, name: str) -> Layer:
        """The layer of this name or alias; ``NAME/relu`` is layer NAME after a ReLU.

        Its own name is in what is returned, with ``/relu`` where that was asked for.

        Raises:
          ValueError: There is none, and why; the nearest names are offered.
        """
        names = [layer.name for layer in self.layers]
        base, after_relu = split_relu(name, names, aliases=dict(self.aliases))
        for layer in self.layers:
            if layer.name == base:
                return layer._replace(name=base + _RELU) if after_relu else layer
        for refused, why in self.refused:
            if refused == base:
                raise ValueError(f"Layer {base!r} cannot be taken: {why}")
        nearest = difflib.get_close_matches(base, names, n=3, cutoff=0.0)
        raise ValueError(
            f"The network has no layer {name!r}; the nearest are {', '.join(nearest)}. All layers: "
            f"{', '.join(names)}. Append {_RELU!r} to take one after its ReLU."
        )


def of_prepared(network: Network, prepare: Callable[[Image], Image]) -> Network:
    """The network of other images: those that a function makes its own of.

    Args:
      network: The network.
      prepare: ``image -> image``, of the same shape; each voxel depends on the same one alone,
        since a layer's receptive field stays as it was.

    Example:
      >>> found = lambda variables, image, layers: {"brightest": image.max()}
      >>> given = Network(found, found, {}, (2, 1), ())
      >>> of_prepared(given, lambda image: 2 * image).activations({}, jnp.ones((2, 1)), ())
      {'brightest': Array(2., dtype=float32)}
    """

    def activations(variables: Variables, image: Image, *given: Any, **options: Any) -> Activations:
        return network.activations(variables, prepare(image), *given, **options)

    def one_channel(variables: Variables, image: Image, *given: Any, **options: Any) -> Activations:
        return network.one_channel(variables, prepare(image), *given, **options)

    return network._replace(activations=activations, one_channel=one_channel)


def permuted_weights(key: Key, variables: Variables) -> Variables:
    """The same numbers in every tensor of weights, in random order.

    What such a network shows it has from its architecture and the spread of its weights, not from
    what it learned.

    Args:
      key: Of the order.
      variables: Weights; integers among them are left as they are.

    References:
      Adebayo et al., Sanity checks for saliency maps, 2018

    Example:
      >>> weights = {"bias": jnp.arange(3.0), "kernel": jnp.arange(4.0).reshape(2, 2)}
      >>> permuted = permuted_weights(jax.random.key(0), weights)
      >>> permuted["kernel"].shape, sorted(permuted["bias"].tolist())
      ((2, 2), [0.0, 1.0, 2.0])
    """
    leaves, structure = jax.tree.flatten(variables)
    permuted = [
        jax.random.permutation(each, leaf.ravel()).reshape(leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        else leaf
        for each, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, permuted)


def split_relu(
    name: str, names: Iterable[str], *, aliases: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, bool]:
    """Which layer a name means, and whether after a ReLU.

    Args:
      name: A layer's name or alias, or one with ``/relu`` appended.
      names: All layers; one whose own name ends in ``/relu`` is taken as it is.
      aliases: Other names of layers; a slash in front of one does not count.

    Example:
      >>> split_relu("conv1/relu", ["conv1"]), split_relu("block/relu", ["block/relu"])
      (('conv1', True), ('block/relu', False))
      >>> split_relu("/Conv_3/relu", ["conv1"], aliases={"Conv_3": "conv1"})
      ('conv1', True)
    """
    for asked, after_relu in ((name, False), (name.removesuffix(_RELU), name.endswith(_RELU))):
        if asked in names:
            return asked, after_relu
        if asked.strip("/") in aliases:
            return aliases[asked.strip("/")], after_relu
    return name.removesuffix(_RELU), name.endswith(_RELU)


def select(
    outputs: dict[str, Array],
    asked: Iterable[str],
    names: Iterable[str],
    *,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Array]:
    """The outputs that were asked for, after a ReLU where the name says so.

    Args:
      outputs: By the layers' own names.
      asked: Names as `Network.layer` takes them.
      names: All layers.
      aliases: Other names of layers.
    """
    found = {}
    for name in asked:
        base, after_relu = split_relu(name, names, aliases=aliases)
        found[name] = jax.nn.relu(outputs[base]) if after_relu else outputs[base]
    return found
