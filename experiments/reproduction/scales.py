"""How much `experiments.reproduce_paper` does: the small scale and the paper's."""

import dataclasses

# Figures 3 and 4 of the paper, in its order as far as words and pictures tell.
FIGURE_3 = (
    *("none", "jitter_1", "jitter_2", "rotation_10", "rotation_30", "rotation_90"),
    *("translation_0.1", "resize_0.5", "zoom_0.9", "zoom_1.1"),
)
FIGURE_4 = (
    *("none", "crop_nearest", "crop_linear", "crop_cubic", "tv_0.1", "sbf"),
    *("blur_0.5", "blur_1", "blur_every_step"),
    *("jitter_rotation", "jitter_rotation_tv", "resize_cubic", "resize_cubic_tv"),
)
STRATEGIES = tuple(dict.fromkeys((*FIGURE_3, *FIGURE_4)))


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is done.

    Attributes:
      sex_training: Flags of the training on whole volumes.
      lesion_training: Flags of the trainings on slices.
      volume_mm: Voxels of the volumes; finer ones are resampled. None leaves them as they are.
      use_zoo: Whether shipped models are taken where the cohort's slices fit them.
      channels: Channels of each layer, by the rank of the model; None for all.
      compared: Channels of conv5 that go through every strategy.
      figure_2_steps: Steps of each ascent for Figure 2.
      comparison_steps: Steps of each ascent for Figures 3 and 4.
      strategies: What they go through.
      penalty: R(x), subtracted with the paper's weight of 10.
      batch: Units that run together, by the rank of the model.
      graded_starts: Pictures of each planted model's logit that are graded, each from a start of
        its own, by the rank of the model; 0 for none.
      graded_steps: Steps of each of their ascents, by the rank of the model.
      cube_training: Flags of the trainings on volumes with cubes.
      noise_training: Flags of the trainings that go on through noise.
    """

    sex_training: tuple[str, ...]
    lesion_training: tuple[str, ...]
    volume_mm: float | None
    use_zoo: bool
    channels: dict[int, int | None]
    compared: int
    strategies: tuple[str, ...] = STRATEGIES
    figure_2_steps: int = 200
    comparison_steps: int = 256
    penalty: str = "none"
    cube_training: tuple[str, ...] = ("--steps=300", "--curriculum=150")
    noise_training: tuple[str, ...] = (
        *("--batch=32", "--steps=500", "--evaluate_every=100", "--curriculum=0"),
        *("--learning_rate=5e-4", "--noise=0.25", "--validation_images=256"),
    )
    batch: dict[int, str] = dataclasses.field(default_factory=lambda: {2: "16", 3: "3"})
    graded_starts: dict[int, int] = dataclasses.field(default_factory=lambda: {2: 20, 3: 8})
    graded_steps: dict[int, int] = dataclasses.field(default_factory=lambda: {2: 128, 3: 64})


SCALES = {
    "small": Scale(
        sex_training=("--batch=8", "--steps=80", "--evaluate_every=20", "--curriculum=0"),
        lesion_training=(
            *("--batch=32", "--steps=600", "--evaluate_every=100", "--curriculum=200"),
            "--validation_images=256",
        ),
        volume_mm=2.0,
        use_zoo=True,
        channels={2: None, 3: 3},
        compared=10,
    ),
    "paper": Scale(
        sex_training=(
            *("--batch=8", "--steps=15000", "--evaluate_every=150", "--patience=10"),
            *("--learning_rate=1e-4", "--weight_decay=1e-5", "--decay=constant"),
            *("--validation_images=0", "--augment=false"),
        ),
        lesion_training=(
            *("--batch=200", "--steps=40000", "--evaluate_every=400", "--patience=7"),
            *("--learning_rate=1e-3", "--weight_decay=1e-4", "--decay=constant"),
            *("--validation_images=0", "--augment=false"),
        ),
        volume_mm=None,
        use_zoo=False,
        channels={2: None, 3: None},
        compared=64,
        penalty="layer_l1",
        batch={2: "auto", 3: "auto"},
        graded_starts={2: 20, 3: 20},
        graded_steps={2: 256, 3: 256},
        cube_training=("--steps=2000", "--curriculum=600"),
    ),
}
