"""--grid, and the files that other flags put onto a network's grid."""

from absl import flags
from jaxtyping import Float32
from numpy import ndarray

from experiments import networks
from experiments.flag_values import errors_of
from experiments.networks import Model
from featvis_jax.data.volumes import load_on_grid

FLAGS = flags.FLAGS
GRID = flags.DEFINE_string(
    "grid",
    None,
    "A NIfTI file on the grid of --model's input, for a network that does not tell where it looks "
    "(ONNX, .py, safetensors): as many voxels along its axes as they are stored (one slice for a "
    "network of slices); its affine is taken. Without one, images of such a network have no "
    "orientation, and files that go onto its grid are taken by their axes as they lie.",
)


def with_grid(model: Model, path: str | None = None) -> Model:
    """A model with the affine of --grid, where it is given.

    Args:
      model: The model.
      path: The file, where the flag is not given.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It is another grid than the model's.
    """
    path = path if GRID.value is None else GRID.value
    if path is None:
        return model
    with errors_of("--grid="):
        return networks.on_grid(model, path)


def read_image(flag: str, model: Model, *, channels: int = 1) -> Float32[ndarray, "*spatial c"]:
    """The NIfTI file that a flag names, on the network's grid (`featvis_jax.data.volumes`).

    Args:
      flag: Its name.
      model: The network.
      channels: How many volumes the file holds.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It is no NIfTI file, is damaged or lies elsewhere.
    """
    with errors_of(f"--{flag}="):
        return load_on_grid(str(FLAGS[flag].value), model.grid, channels=channels)
