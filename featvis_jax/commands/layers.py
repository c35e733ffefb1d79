"""``featvis layers``: the layers of a network, as a table."""

import dataclasses

from featvis_jax.commands import startup
from featvis_jax.commands.launch import Command
from featvis_jax.commands.startup import StartupOptions
from featvis_jax.layers_table import layers_text
from featvis_jax.model_options import ModelOptions
from featvis_jax.models import loaded
from featvis_jax.options import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(ModelOptions, StartupOptions):
    """Other."""


def main(flags: Flags) -> None:
    """Load the network and say its layers."""
    startup.prepare(flags)
    model = loaded(flags)
    say(layers_text(model.network))


COMMAND = Command(
    name="layers",
    summary="list the layers of a network",
    examples=(
        "--model=square-lesion",
        "--model=net.onnx --input_shape=64,64,64,1",
    ),
    options=Flags,
    main=main,
    required=("model",),
    first=("model", "input_shape"),
)
