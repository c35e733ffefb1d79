"""The paper's statements that can be checked, each with its measure and the rule for its verdict.

The texts are paraphrases. A measure gives numbers, a rule makes a verdict of these numbers alone,
and a sentence says what was measured; the report shows nothing else.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.reproduction.evidence import Evidence
from experiments.reproduction.plan import LAYERS
from experiments.reproduction.verdicts import (
    FEWEST,
    IMAGES,
    Numbers,
    Statement,
    Verdict,
    groups,
    overparameterized,
    paired,
    planted,
)
from featvis_jax.results.tables import PATTERNED

_UPPER = LAYERS[2:]
_STRIPED = 0.5
# Share of pictures that have to show what was planted, by rank.
_SHOWN = {2: 0.9, 3: 0.75}


def _stripes(evidence: Evidence) -> Numbers:
    found: Numbers = {}
    for model in ("sex", "gaussian", "square"):
        coherence = np.array(evidence.of("coherence", model=model, layer="conv1"))
        found[f"{model}_striped"] = int((coherence >= _STRIPED).sum())
        found[f"{model}_count"] = len(coherence)
    return {**found, "threshold": _STRIPED}


def _stripes_rule(found: Mapping[str, Any]) -> Verdict:
    models = ("sex", "gaussian", "square")
    if any(found[f"{model}_count"] < 2 for model in models):
        return "cannot be told"
    shares = [found[f"{model}_striped"] / found[f"{model}_count"] for model in models]
    if min(shares) >= 0.5:
        return "holds"
    return "does not hold" if min(shares) < 0.25 else "cannot be told"


def _orientations(evidence: Evidence) -> Numbers:
    rows = [
        (row["orientation_degrees"], row["wavelength"])
        for row in evidence.images
        if row["layer"] == "conv1" and row["status"] in PATTERNED and row["coherence"] >= _STRIPED
    ]
    if not rows:
        return {"count": 0, "told": "no image of conv1 is striped"}
    angles, waves = np.array(rows).T
    turned = np.abs(angles[:, None] - angles[None])
    from_axis = np.minimum(angles % 90, 90 - angles % 90)
    return {
        "count": len(rows),
        "turn": float(np.minimum(turned, 180 - turned).max()),
        "slanted": int((from_axis > 20).sum()),
        "thickness": float(waves.max() / waves.min()),
    }


def _orientations_rule(found: Mapping[str, Any]) -> Verdict:
    if found["count"] < 3:
        return "cannot be told"
    varied = found["turn"] >= 45 and found["slanted"] >= 1 and found["thickness"] >= 1.25
    return "holds" if varied else "does not hold"


def _uniform(evidence: Evidence) -> Numbers:
    statuses = [row["status"] for row in evidence.images]
    return {"uniform": statuses.count("uniform"), "count": len(statuses)}


def _uniform_rule(found: Mapping[str, Any]) -> Verdict:
    if found["uniform"]:
        return "holds"
    return "does not hold" if found["count"] >= 100 else "cannot be told"


def _rising(evidence: Evidence) -> Numbers:
    rows = [row for row in evidence.images if row["model"] == "sex"]
    finite = [row for row in rows if row["status"] != "diverged"]
    rose = [row for row in finite if row["objective"] > row["initial_objective"]]
    return {"rose": len(rose), "finite": len(finite), "count": len(rows)}


def _rising_rule(found: Mapping[str, Any]) -> Verdict:
    if found["count"] < FEWEST:
        return "cannot be told"
    if found["finite"] < found["count"]:
        return "does not hold"
    return "holds" if found["rose"] >= 0.9 * found["count"] else "cannot be told"


_SQUARE, _GAUSSIAN = {"model": "square", "layer": _UPPER}, {"model": "gaussian", "layer": _UPPER}
_SEX = {"model": "sex", "layer": _UPPER}
_LESIONS = {"model": ("square", "gaussian"), "layer": _UPPER}
_NAMES = ("square, conv3 to conv5", "Gaussian, conv3 to conv5")

_SECTION_3_1 = (
    Statement(
        "3.1",
        "In the first layer all three models make wavy stripes",
        IMAGES,
        _stripes,
        "coherence of at least {threshold} in {sex_striped} of {sex_count} images (sex), "
        "{gaussian_striped} of {gaussian_count} (Gaussian), {square_striped} of {square_count} "
        "(square)",
        _stripes_rule,
        "holds if in every model at least half of the images with a pattern are striped; does not "
        "if in one less than a quarter is; else, or with fewer than 2 such images, it cannot be "
        "told",
    ),
    Statement(
        "3.1",
        "These stripes differ in orientation, slanted ones among them, and in thickness",
        IMAGES,
        _orientations,
        "{count} striped images of conv1, turned against each other by up to {turn} degrees; "
        "{slanted} of them are slanted; mean periods differ by a factor of {thickness}",
        _orientations_rule,
        "holds if two are turned by 45 degrees or more, one lies more than 20 degrees from both "
        "axes, and periods differ by 1.25 times or more; cannot be told of fewer than 3 images",
    ),
    Statement(
        "3.1",
        "Some images stay at a nearly uniform value",
        IMAGES,
        _uniform,
        "{uniform} of {count} images are uniform",
        _uniform_rule,
        "holds if there is one; does not if there is none in 100 or more; else it cannot be told",
    ),
    groups(
        "3.1",
        "The second layer composes: its patterns are more complex than the stripes of the first",
        "coherence",
        {"layer": "conv2"},
        {"layer": "conv1"},
        "less",
        ("conv2", "conv1"),
    ),
    groups(
        "3.1",
        "The square model shows squares: edges along the axes, where the Gaussian model has none",
        "axis_share",
        _SQUARE,
        _GAUSSIAN,
        "more",
        _NAMES,
    ),
    groups(
        "3.1",
        "Edges are sharp in the square model, and softer in the Gaussian one",
        "sharpness",
        _SQUARE,
        _GAUSSIAN,
        "more",
        _NAMES,
    ),
    groups(
        "3.1",
        "The sex model makes much blurrier images",
        "total_variation",
        _SEX,
        _LESIONS,
        "less",
        ("sex, conv3 to conv5", "lesion models, conv3 to conv5"),
    ),
    groups(
        "3.1",
        "From the third to the fourth layer the square model's patterns become ubiquitous",
        "density",
        {"model": "square", "layer": "conv4"},
        {"model": "square", "layer": "conv3"},
        "more",
        ("conv4", "conv3"),
    ),
    groups(
        "3.1",
        "In the fourth layer parts of the images are blurred out",
        "total_variation",
        {"model": ("square", "gaussian"), "layer": "conv4"},
        {"model": ("square", "gaussian"), "layer": "conv3"},
        "less",
        ("conv4", "conv3"),
    ),
    planted("3.1", "The square model's images show squares, as planted", "square", bar=_SHOWN[2]),
    planted(
        *("3.1", "They do if it was trained through noise", "square-noise"),
        bar=_SHOWN[2],
    ),
    planted(
        *("3.1", "The Gaussian model's images show soft discs, as planted", "gaussian"),
        bar=_SHOWN[2],
    ),
)

_SECTION_3_2 = (
    paired("Jitter affects the contrast", "contrast", "jitter_1", "none", "different"),
    paired(
        "Jitter above 1 widens the distribution of values",
        *("contrast", "jitter_2", "jitter_1", "more"),
    ),
    paired(
        "Jitter above 1 makes the whole image brighter",
        *("brightness", "jitter_2", "jitter_1", "more"),
    ),
    paired(
        "Rotation leaves artefacts at the edges",
        *("edge_brightness", "rotation_30", "none", "different"),
    ),
    paired(
        "Rotation takes brightness from the horizontal and vertical edges",
        *("edge_brightness", "rotation_30", "none", "less"),
    ),
    paired(
        "Translation causes artefacts at the edges",
        *("edge_brightness", "translation_0.1", "none", "different"),
    ),
    paired("Translation makes the image denser", "density", "translation_0.1", "none", "more"),
    paired(
        "Resizing, with padding, causes artefacts at the edges",
        *("edge_brightness", "zoom_0.9", "none", "different"),
    ),
    paired("Resizing makes the image sharper", "total_variation", "resize_0.5", "none", "more"),
    paired("Random crops smooth", "total_variation", "crop_linear", "none", "less"),
    paired(
        "Bilinear interpolation gives more contrast than bicubic",
        *("contrast", "crop_linear", "crop_cubic", "more"),
    ),
    paired(
        "Bilinear interpolation stays fine, unlike nearest",
        *("total_variation", "crop_linear", "crop_nearest", "less"),
    ),
    paired("Total-variation denoising removes noise", "total_variation", "tv_0.1", "none", "less"),
    paired(
        "The switching bilateral filter removes noise", "total_variation", "sbf", "none", "less"
    ),
    paired(
        "Total-variation denoising smooths more subtly than the switching bilateral filter",
        *("total_variation", "tv_0.1", "sbf", "more"),
    ),
    paired(
        "The switching bilateral filter smooths too drastically: more of the objective is lost",
        *("objective", "sbf", "tv_0.1", "less"),
    ),
    paired(
        "Jitter smooths over the edge artefacts of a large rotation",
        *("edge_artefact", "jitter_rotation", "rotation_90", "less"),
    ),
    paired(
        "Rotation reduces the sharp brightness effects of jitter",
        *("contrast", "jitter_rotation", "jitter_1", "less"),
    ),
    paired(
        "Resizing with bicubic interpolation is smoother than resizing by itself",
        *("total_variation", "resize_cubic", "resize_0.5", "less"),
    ),
)

_SECTION_4 = (
    Statement(
        "4",
        "Feature visualization converts to 3-D easily",
        IMAGES,
        _rising,
        "of {count} ascents on volumes {finite} stayed finite and {rose} ended above their start; "
        "whether volumes show the right thing is asked next, of lesions that are known",
        _rising_rule,
        "holds if all stay finite and nine of ten rise; does not if one diverges; cannot be told "
        "of fewer than 6",
    ),
    planted(
        *("4", "In 3-D too an image shows what its network has learned: cubes", "cube"),
        bar=_SHOWN[3],
    ),
    groups(
        "4",
        "The lesion models' patterns are much sharper than the sex model's",
        "sharpness",
        _LESIONS,
        _SEX,
        "more",
        ("lesion models, conv3 to conv5", "sex, conv3 to conv5"),
    ),
    overparameterized("square"),
    overparameterized("gaussian"),
    overparameterized("sex"),
)

STATEMENTS = (*_SECTION_3_1, *_SECTION_3_2, *_SECTION_4)
"""All of them, in the paper's order."""
