"""How exactly products are computed; runs set it for what they compute, and for nothing else."""

import dataclasses

from featvis_jax.options import Options, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionOptions(Options):
    """Numerical precision."""

    precision: str | None = option(
        None,
        "Precision of convolutions and matrix products on an accelerator; JAX's own choice by "
        "default: tensorfloat32 on recent GPUs.",
        choices=("float32", "tensorfloat32", "bfloat16"),
    )
