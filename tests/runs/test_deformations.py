"""Deforming a scan by options: what a run leaves of it, and what is refused."""

import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from featvis_jax.models import from_function, from_network
from featvis_jax.results import nifti, shards
from featvis_jax.results.gallery.growth import coloured
from featvis_jax.results.store import open_run, read_run
from featvis_jax.runs.deformations import with_starts
from featvis_jax.runs.in_memory import visualize
from featvis_jax.runs.recipes import regularization_of
from featvis_jax.runs.reference_scans import Inputs
from featvis_jax.runs.visualize_job import AscentOptions
from tests.maximize.test_deformation import SPATIAL, disc_network, scan

pytestmark = pytest.mark.optax
# A grid whose first two axes are swapped in the world, and one of which runs the other way.
AFFINES = {
    "2-D": np.array([[0.0, 1, 0, -20], [-1, 0, 0, 20], [0, 0, 1, 5], [0, 0, 0, 1]]),
    "3-D": np.diag([2.0, 2.0, 2.0, 1.0]),
}


def model_of(name):
    made = from_network(disc_network(name), name="disc")
    return made._replace(affine=AFFINES[name])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    paths = {}
    for name in SPATIAL:
        path = folder / f"{name}.nii.gz"
        path.write_bytes(nifti.encode_nifti(scan(name), AFFINES[name]))
        paths[name] = str(path)
    return paths


@pytest.fixture(scope="module", params=list(SPATIAL))
def done(request, files):
    name = request.param
    return name, visualize(
        model_of(name),
        "logits",
        parameterization="deformation",
        start_image=files[name],
        regularization="none",
        changes="both",
        stiffness=20,
        up_to=6,
        steps=30,
        batch=2,
    )


def test_maps_of_a_run_lie_where_the_scan_lies(done, tmp_path):
    name, units = done
    run = units.save(tmp_path / "run")
    for unit in read_run(tmp_path / "run").units():
        assert set(unit.maps) == {"scan", "logjac", "displacement", "logbright"}
        kept = units[unit.channel].maps
        for key, values in unit.maps.items():
            np.testing.assert_array_equal(values, kept[key])
            path = run.map_path(*unit.record.key, name=key)
            stored = nibabel.load(path)
            np.testing.assert_array_equal(stored.affine, AFFINES[name])
            assert stored.shape[:3] == (*SPATIAL[name], 1)[:3]
        assert stored.header.get_intent()[0] == "vector" or key != "displacement"
        np.testing.assert_allclose(unit.maps["scan"], scan(name), atol=1e-5)
        # In the world: of the swapped axes, what moves along the first is the second's.
        assert unit.maps["displacement"].shape == (*SPATIAL[name], 3)
    page = (tmp_path / "run" / "gallery" / "units" / "logits" / "0000.html").read_text()
    for told in ("What grew and what shrank", "What became brighter", "desc-logjac", "diverging"):
        assert told in page
    assert ("Slices through the largest change: z = " in page) == (name == "3-D")


def test_the_disc_grows_for_one_logit_and_shrinks_for_the_other(done):
    name, units = done
    inner = scan(name)[..., 0] > 0.55
    growing, shrinking = (unit.maps["logjac"][..., 0][inner].mean() for unit in units)
    assert growing > 0.03
    assert shrinking < -0.03


def test_a_displacement_is_told_along_the_axes_of_the_world(files):
    """What is stored, in mm in the world, is where the picture was read in the scan."""
    (unit,) = visualize(
        model_of("2-D"),
        "logits",
        channels=0,
        parameterization="deformation",
        start_image=files["2-D"],
        regularization="none",
        steps=3,
    )
    moved = np.moveaxis(unit.maps["displacement"], -1, 0)
    voxels = np.indices((*SPATIAL["2-D"], 1))[..., 0].reshape(3, -1)
    affine = AFFINES["2-D"]
    read = affine[:3, :3] @ voxels + affine[:3, 3:] + moved.reshape(3, -1)
    places = (np.linalg.inv(affine) @ np.vstack([read, np.ones(read.shape[1])]))[:2]
    from scipy import ndimage

    expected = ndimage.map_coordinates(scan("2-D")[..., 0], places, order=1, mode="nearest")
    np.testing.assert_allclose(unit.image.ravel(), expected, atol=1e-5)
    assert np.abs(moved).max() > 0.1


def test_shards_keep_maps(done, tmp_path):
    name, units = done
    affine = AFFINES[name]
    with open_run(tmp_path / "out", {"steps": 30}, environment={}) as run:
        place = shards.shard_directory(tmp_path / "out", 1, 2)
        with open_run(place, {"steps": 30}, environment={}) as shard:
            shard.write_units(list(units), affine=affine)
        shards.collect(run, affine=affine)
        first = next(iter(run.units()))
    np.testing.assert_array_equal(first.maps["logjac"], units[0].maps["logjac"])
    assert not place.exists()


def test_the_mean_of_a_reference_is_a_start(rng):
    model = model_of("2-D")
    images = [rng.uniform(size=model.image_shape).astype(np.float32) for _ in range(4)]
    inputs = Inputs(images, (0, 2), None, None, 100.0, 0)  # pyright: ignore
    (found,) = with_starts(model, inputs, "mean", variants=3).starts
    np.testing.assert_allclose(found, (images[0] + images[2]) / 2, atol=1e-6)
    assert with_starts(model, inputs, "scan.nii", variants=3).starts is None


def test_regularization_that_drives_goes_with_it(files):
    units = visualize(
        model_of("2-D"),
        "logits",
        channels=0,
        parameterization="deformation",
        start_image=files["2-D"],
        variants=2,
        steps=8,
    )
    assert [unit.variant for unit in units] == [1, 2]
    assert np.abs(units[0].maps["logjac"] - units[1].maps["logjac"]).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "driven"),
        ({"up_to": 8.0}, "lucid"),
        ({"up_to": 8.0, "parameterization": "deformation"}, "roll_3,noise_0.1"),
        ({"up_to": 8.0, "parameterization": "deformation", "regularization": "none"}, "none"),
        ({"up_to": 8.0, "parameterization": "level_set"}, "roll_3,noise_0.1"),
    ],
)
def test_an_objective_that_ends_has_a_strategy_that_can(options, expected):
    assert regularization_of(model_of("3-D"), AscentOptions(**options)) == expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "`parameterization=deformation` needs a scan to deform: give `start_image=FILE`"),
        ({"start_image": "mean"}, "`start_image=mean` is the mean of the scans of `reference`"),
        ({"start_image": "3-D"}, "`start_image=.*3-D.nii.gz`: "),
        ({"spacing_mm": 1.5}, "`parameterization=deformation`: spacing_mm is 1.5, .* two voxels"),
        ({"rms_displacement_mm": 40}, "rms_displacement_mm=40; .* no field reaches more than"),
        ({"strain": 1.5}, "strain is 1.5"),
        ({"intensity": "affine"}, "`intensity=affine`: a scan that is deformed keeps its own"),
        ({"parameterization": "pixels", "strain": 0.5}, "`strain` is for `parameterization=def"),
        ({"parameterization": "pixels", "spacing_mm": 9.0}, "`spacing_mm` is for `parameterizat"),
        ({"parameterization": "level_set", "strain": 0.5}, "`strain` is for `parameterization=d"),
        (
            {"up_to": 3.0, "regularization": "driven"},
            "`up_to=3`: `regularization=driven` has targets",
        ),
        ({"regularization": "paper"}, "acts on pixels after each step"),
        ({"changes": "colour"}, "`changes=colour`: expected one of shape, brightness, both"),
    ],
)
def test_what_cannot_be_is_told_by_name(files, options, told):
    start = (
        {}
        if told.startswith("`parameterization=deformation` needs")
        else {"start_image": files["2-D"]}
    )
    given = {"parameterization": "deformation", "regularization": "none", **start, **options}
    if options.get("start_image") == "3-D":
        given["start_image"] = files["3-D"]
    with pytest.raises(ValueError, match=told):
        visualize(model_of("2-D"), "logits", steps=2, **given)


def test_voxels_of_no_known_size_are_refused(files):
    def mean(weights, images):
        return checkpoint_name(images * weights, "scaled")

    plain = from_function(mean, jnp.ones(()), (*SPATIAL["2-D"], 1))
    with pytest.raises(ValueError, match=r"how large the voxels .* are.*give `grid=FILE`"):
        visualize(
            plain,
            "scaled",
            parameterization="deformation",
            start_image=files["2-D"],
            regularization="none",
        )


def test_colours_are_symmetric_and_leave_what_stays():
    ground = np.full((1, 5), 80, np.uint8)
    found = coloured(ground, np.array([[-2.0, -0.5, 0.0, 0.5, 2.0]]))
    assert found[0, 2].tolist() == [80, 80, 80]
    np.testing.assert_array_equal(found[0, 0], coloured(ground, np.full((1, 5), -1.0))[0, 0])
    red, blue = found[0, 3].astype(int), found[0, 1].astype(int)
    assert red[0] > red[2] + 30
    assert blue[2] > blue[0] + 30
