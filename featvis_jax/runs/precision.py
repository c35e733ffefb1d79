"""How exactly products are computed; runs set it for what they compute, and for nothing else."""

import dataclasses

from featvis_jax.options import Options, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionOptions(Options):
    """How exactly products are computed."""

    precision: str | None = option(
        None,
        "Of products on an accelerator. By default JAX's own choice: tensorfloat32 on recent GPUs.",
        choices=("float32", "tensorfloat32", "bfloat16"),
    )
