"""Whatever is maximized, and however the image is written down: three steps raise it."""

import functools
import inspect
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from featvis_jax.maximize import ascent, objectives, parameterizations
from featvis_jax.maximize.objectives import Objective, Unit
from featvis_jax.maximize.parameterizations import Parameterization
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.tracing import Network, linen_network

SHAPES = {2: (28, 30, 1), 3: (28, 29, 30, 1)}
STEPS = 3


@functools.cache
def cnn_network(rank) -> Network:
    shape = SHAPES[rank]
    module = CNN(rank=rank, features=(2, 4, 4, 4, 4))
    rng = np.random.default_rng(3)

    def draw(leaf):
        scale = np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 1))
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

    shapes = jax.eval_shape(
        module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    statistics = {"mean": jnp.float32(0.4), "std": jnp.float32(0.25)}
    variables = {"params": jax.tree.map(draw, shapes["params"]), "statistics": statistics}
    return linen_network(module, variables, shape)


def every_objective(network: Network) -> dict[str, Objective]:
    """One of each, by the name of its factory."""
    grid = network.layer("conv3").shape[:-1]
    corner = np.indices(grid).sum(axis=0) < sum(grid) / 3
    return {
        "channel": objectives.channel("conv3"),
        "strongest": objectives.strongest(objectives.channel("conv3")),
        "neuron": objectives.neuron("conv3"),
        "layer": objectives.layer("conv2/relu"),
        "logit": objectives.logit("logits"),
        "logit_difference": objectives.logit_difference("logits"),
        "direction": objectives.direction("conv3", vector=[1, -0.5, 0.25, 2]),
        "cosine_direction": objectives.cosine_direction("conv3", vector=[1, -0.5, 0.25, 2]),
        "attention": objectives.attention("conv3", corner),
        "interpolation": objectives.interpolation(
            objectives.channel("conv3"), objectives.channel("conv2").of(3), share=None
        ),
        "diversity": objectives.diversity("conv3"),
        "up_to": objectives.up_to(objectives.channel("conv3"), 1e3),
        # And what they combine to.
        "opposite": -objectives.channel("conv3/relu"),
        "sum": objectives.logit("logits") + 0.5 * objectives.diversity("conv2/relu"),
    }


def every_parameterization(rank) -> dict[str, tuple[Parameterization, float]]:
    """One of each, by the name of its factory, with a learning rate for three steps."""
    shape = SHAPES[rank]
    scan = np.random.default_rng(1).random(shape)
    for axis in range(rank):  # Neighbours alike, as in a scan.
        scan = (scan + np.roll(scan, 1, axis) + np.roll(scan, 2, axis)) / 3
    spectrum = parameterizations.mean_magnitude_spectrum([scan])
    return {
        "pixels": (parameterizations.pixels(), 0.002),
        "fourier": (parameterizations.fourier(), 0.002),
        "laplacian": (parameterizations.laplacian(), 0.002),
        "cppn": (parameterizations.cppn(width=6, depth=3), 0.002),
        "level_set": (parameterizations.level_set(price=0.0), 0.002),
        "phase": (parameterizations.phase(spectrum), 0.05),
        "from_image": (
            parameterizations.from_image(scan, parameterizations.pixels(), noise=0.05),
            0.01,
        ),
        "deformation": (
            parameterizations.deformation(
                scan, spacing_mm=6.0, noise=0.3, stiffness=parameterizations.Stiffness(weight=0.0)
            ),
            0.01,
        ),
        "inside": (
            parameterizations.inside(scan[..., 0] > 0.4, parameterizations.fourier()),
            0.002,
        ),
    }


def public(module, kind) -> set[str]:
    """Factories of a module that return a type."""
    functions = {name: f for name, f in vars(module).items() if inspect.isfunction(f)}
    return {n for n, f in functions.items() if typing.get_type_hints(f).get("return") is kind}


def test_nothing_public_is_left_out():
    # Tokens need a network that has some: tests/maximize/test_tokens.py.
    tokens = {"of_tokens"}
    assert public(objectives, Objective) <= set(every_objective(cnn_network(2))) | tokens
    # What holds some channels needs a network of several, and what deforms several scans variants:
    # tests/maximize/test_several_channels.py, test_deformation.py.
    several = {"holding", "deformations"}
    assert public(parameterizations, Parameterization) == set(every_parameterization(2)) | several


def all_at_once(choices: list[Objective]) -> Objective:
    """One objective that is another for every unit, so that one program holds them all."""

    def choose(objective: Objective) -> Callable[..., jax.Array]:
        # Channel 1 is one that every layer has.
        return lambda activations, image: objective.value(activations, image, Unit(jnp.int32(1)))

    return Objective(
        "all_at_once()",
        tuple(dict.fromkeys(name for objective in choices for name in objective.layers)),
        lambda activations, image, unit: lax.switch(
            unit.channel, [choose(objective) for objective in choices], activations, image
        ),
        reads_variants=True,
        checks=tuple(check for objective in choices for check in objective.checks),
    )


UNITS = len(every_objective(cnn_network(2)))


def over_units_and_variants(function, *, in_axes=0):
    """A function of one variant for all units at once, two variants each."""
    inner = jax.vmap(function, in_axes=in_axes, axis_name=objectives.VARIANTS)
    return jax.jit(jax.vmap(inner), compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module", params=[2, 3], ids=["2-D", "3-D"])
def look(request):
    """The rank, and what gives every unit's objective and its gradient on the image.

    Compiled once for all parameterizations, and otherwise as an ascent does it.
    """
    network = cnn_network(request.param)
    every = all_at_once(list(every_objective(network).values()))
    recipe = ascent.Recipe(
        objective=every,
        parameterization=parameterizations.pixels(),
        optimizer=optax.sgd(1.0),
        steps=1,
        variants=2,
    )
    ascent.check(recipe, network=network)

    def value(image, unit):
        activations = network.activations(network.variables, image, every.layers)
        return every.value(activations, image, unit)

    read = over_units_and_variants(jax.value_and_grad(value), in_axes=(0, None))
    return request.param, lambda images: read(images, Unit(jnp.arange(UNITS)))


@pytest.mark.optax
@pytest.mark.parametrize("name", every_parameterization(2))
def test_every_objective_rises_in_three_steps(name, look):
    rank, values_and_gradients = look
    parameterization, learning_rate = every_parameterization(rank)[name]
    optimizer = optax.adam(learning_rate)

    @over_units_and_variants
    def start(key):
        parameters = parameterization.init(key, SHAPES[rank])
        return parameters, optimizer.init(parameters), parameterization.decode(parameters)

    @over_units_and_variants
    def step(parameters, state, uphill):
        _, pull = jax.vjp(parameterization.decode, parameters)
        (gradient,) = pull(-uphill)
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = parameterization.constrain(optax.apply_updates(parameters, updates))
        finite = jnp.all(jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(gradient)]))
        return parameters, state, parameterization.decode(parameters), finite

    parameters, state, images = start(jax.random.split(jax.random.key(2), (UNITS, 2)))
    traces = []
    for _ in range(STEPS):
        values, uphill = values_and_gradients(images)
        traces.append(values)
        parameters, state, images, finite = step(parameters, state, uphill)
        assert finite.all()
    traces.append(values_and_gradients(images)[0])
    # Variants that push each other apart rise together.
    rise = np.sum(traces, axis=2).T
    assert np.isfinite(rise).all()
    for choice, trace in zip(every_objective(cnn_network(rank)), rise, strict=True):
        assert trace[STEPS] > trace[0], (choice, trace)
