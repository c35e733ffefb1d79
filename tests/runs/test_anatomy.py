"""What deformed scans have in common: a run over people, from their scans to tables and maps."""

import csv
import json

import nibabel
import numpy as np
import pytest
from scipy import stats

import featvis_jax as fv
from featvis_jax.data.cache import cache_volumes
from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.masks import brain_mask
from featvis_jax.data.sources import over_people as spread_over_people
from featvis_jax.data.sources import source
from featvis_jax.evidence import anatomy as measures
from featvis_jax.evidence import brightness
from featvis_jax.model_options import InputOptions
from featvis_jax.models import from_network
from featvis_jax.results.store import read_run
from featvis_jax.runs.in_memory import visualize
from tests.evidence import known

pytestmark = pytest.mark.optax
PEOPLE, SLICES = {"2-D": 5, "3-D": 3}, 7
VARIANTS = {"2-D": 7, "3-D": 3}
# Of the volumes of the cohort: slices lie 3 mm apart.
AFFINE = np.array([[2.0, 0, 0, -39], [0, 2, 0, -43], [0, 0, 3, -9], [0, 0, 0, 1]])
VOLUME_AFFINE = np.array([[2.0, 0, 0, -21], [0, 2, 0, -23], [0, 0, 2, -19], [0, 0, 0, 1]])
RECIPE = {
    "parameterization": "deformation",
    "start_image": "reference",
    "regularization": "none",
    "objective": "logit",
    "stiffness": 50,
    "up_to": known.TARGET,
    "steps": 50,
    "batch": 1,
    "channels": 0,
}


def write_cohort(folder, name, people):
    rows = ["participant_id\tsex"]
    for number in range(people):
        if name == "2-D":
            planes = [known.person(name, 100 * number + z)[..., 0] for z in range(SLICES)]
            volume, affine = np.stack(planes, axis=-1), AFFINE
        else:
            volume, affine = known.person(name, number)[..., 0], VOLUME_AFFINE
        person = f"sub-{number:02d}"
        path = folder / person / "anat" / f"{person}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(volume, affine), path)
        rows.append(f"{person}\tF")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("anatomy")


@pytest.fixture(scope="module")
def cohorts(place):
    return {
        name: write_cohort(place / f"people-{name}", name, people)
        for name, people in PEOPLE.items()
    }


def model_of(network, name):
    affine = AFFINE.copy() if name == "2-D" else VOLUME_AFFINE
    said = InputOptions(scaling="raw", intensity_range=(0.0, 1.0))
    return from_network(network, name="cue")._replace(affine=affine, scaling="raw", told=said)


def recipe(place, cohorts, name, **options):
    own = {"variants": VARIANTS[name], "reference": str(cohorts[name])}
    own["cache"] = str(place / "cache")
    return {**RECIPE, **own, **options}


@pytest.fixture(scope="module", params=["2-D size", "2-D brightness", "3-D size"])
def done(request, place, cohorts):
    """A run of scans of several people, and what was found in it."""
    name, cue = request.param.split()
    network = (known.size_network if cue == "size" else known.brightness_network)(name)
    model = model_of(network, name)
    units = visualize(model, "logits", **recipe(place, cohorts, name))
    run = units.save(place / request.param.replace(" ", "-"), gallery=False)
    rows = fv.anatomy(run, model=model)
    return name, cue, model, units, read_run(run.directory), rows


def table(view, name):
    with (view.directory / name).open(newline="") as lines:
        return list(csv.DictReader(lines, dialect="excel-tab"))


# Scans of several people


def test_variants_start_from_scans_of_people_and_the_run_tells_whose(done, place, cohorts):
    name, _, _, units, view, _ = done
    starts = view.starts
    assert [unit.start for unit in units] == starts == [unit.start for unit in view.units()]
    people = [start.person for start in starts]
    first = people[: PEOPLE[name]]
    assert sorted(first) == [f"sub-{number:02d}" for number in range(PEOPLE[name])]
    for unit, start in zip(units, starts, strict=True):
        number = int(start.person[-2:])
        expected = number if name == "3-D" else 100 * number + start.slice
        np.testing.assert_allclose(unit.maps["scan"], known.person(name, expected), atol=1e-6)
        if name == "2-D":
            assert start.height_mm == pytest.approx(-9 + 3 * start.slice)
            assert f"slice {start.slice} (z = " in start.words
        else:
            assert (start.slice, start.height_mm) == (None, None)
    if name == "2-D":
        # Seven heights for seven images.
        assert sorted(start.slice for start in starts) == list(range(SLICES))


def test_people_are_spread_evenly_and_nobody_comes_twice_before_all_have_come(place, cohorts):
    cohort = read_cohort(cohorts["2-D"])
    volumes = cache_volumes(cohort.subjects, place / "cached", scaling="raw")
    images = source(list(volumes.values()), known.SPATIAL["2-D"])
    for count in (1, 3, 5, 12, len(images)):
        chosen = spread_over_people(images, count)
        assert len(set(chosen)) == count
        owners = [images.owner(position) for position in chosen]
        counts = [owners.count(owner) for owner in set(owners)]
        assert max(counts) - min(counts) <= 1 and len(counts) == min(count, 5)
        heights = [images.index[position][1] for position in chosen]
        assert len(set(heights)) == min(count, SLICES)
    assert [images.owner(position) for position in spread_over_people(images, 2)] == [
        "sub-00",
        "sub-04",
    ]
    with pytest.raises(ValueError, match=r"there are 35 images; 36 are wanted"):
        spread_over_people(images, 36)


@pytest.mark.parametrize("done", ["2-D size"], indirect=True)
def test_a_scan_s_deformation_does_not_depend_on_the_others(done, place, cohorts):
    name, _, model, units, _, _ = done
    again = visualize(model, "logits", **recipe(place, cohorts, name, channels=[0, 1], batch=2))
    for one, other in zip(units, again[: len(units)], strict=True):
        np.testing.assert_allclose(one.maps["logjac"], other.maps["logjac"], atol=2e-3)
        assert one.record.final_objective == pytest.approx(other.record.final_objective, abs=1e-2)


def test_what_the_objective_was_to_reach_is_the_target_and_who_reaches_it_is_driven(done):
    _, _, _, units, _, _ = done
    for unit in units:
        reached = unit.record.final_objective >= 0.99 * known.TARGET
        assert unit.record.target == known.TARGET
        assert unit.status == ("driven" if reached else "weak")


# What they have in common


def test_the_mean_and_t_are_those_of_scipy_over_people(done):
    name, cue, _, units, view, _ = done
    people = [unit.start.person for unit in units]
    of_people = np.stack(
        [
            np.mean(
                [u.maps["logjac"] for u, p in zip(units, people, strict=True) if p == person], 0
            )
            for person in dict.fromkeys(people)
        ]
    ).astype(np.float64)
    expected = stats.ttest_1samp(of_people, 0.0, axis=0)
    mean = view.stat("logits", 0, stat="mean", name="logjac")
    np.testing.assert_allclose(mean, of_people.mean(axis=0), atol=1e-6)
    t = view.stat("logits", 0, stat="t", name="logjac")
    known_there = np.isfinite(t)
    assert known_there.mean() > 0.9
    np.testing.assert_allclose(t[known_there], expected.statistic[known_there], rtol=1e-3)
    stored = nibabel.load(view.stat_path("logits", 0, stat="t", name="logjac"))
    assert stored.header.get_intent()[:2] == ("t test", (PEOPLE[name] - 1,))
    np.testing.assert_array_equal(stored.affine, AFFINE if name == "2-D" else VOLUME_AFFINE)
    (row,) = view.anatomy_maps()
    scan = view.stat("logits", 0, stat="mean", name="scan")[..., 0]
    inside = brain_mask(scan) & known_there[..., 0]
    adjusted = stats.false_discovery_control(expected.pvalue[..., 0][inside])
    passing = adjusted <= 0.05
    assert (row.images, row.people) == (VARIANTS[name], PEOPLE[name])
    assert row.rising + row.falling == pytest.approx(passing.mean(), abs=2e-3)
    # Of five people something passes; two degrees of freedom are few.
    assert passing.any() == (row.t_threshold is not None)
    assert passing.any() or (name, cue) != ("2-D", "size")
    assert row.told.startswith("Common to the scans: " if passing.any() else "No place of the")
    if passing.any():
        assert np.abs(t[..., 0][inside][passing]).min() == pytest.approx(row.t_threshold, rel=1e-3)


def test_the_cue_is_known_by_what_shape_and_brightness_take(done):
    _, cue, _, units, view, rows = done
    ratios = [row.brightness_ratio >= brightness.MOST_RATIO for row in rows]
    assert ratios == [cue == "brightness"] * len(rows)
    for row in rows:
        warned = row.warning or ""
        assert warned.startswith("This unit asks for brightness rather than shape") == (
            cue == "brightness"
        )
    scans = view.anatomy_scans()
    assert [scan.person for scan in scans] == [unit.start.person for unit in units]
    for scan, unit in zip(scans, units, strict=True):
        assert scan.target == known.TARGET
        effort = brightness.shape_effort(unit.maps["displacement"], voxel_size_mm=2.0)
        if unit.record.final_objective >= brightness.REACHED * known.TARGET:
            assert scan.shape_effort == pytest.approx(effort, rel=1e-3)
        else:  # What shape takes was asked for once more, at a lower price.
            assert scan.shape_effort > effort
        assert scan.outcome in brightness.OUTCOMES
    told = json.loads((view.directory / "anatomy_scans.json").read_text())
    assert told["height_mm"]["Units"] == "mm"


def test_without_regions_the_places_of_the_largest_changes_are_told(done):
    name, _, model, _, view, rows = done
    assert {row.region for row in rows} == {"largest growth", "largest shrinkage"}
    assert abs(rows[0].change) >= abs(rows[1].change)
    mean = view.stat("logits", 0, stat="mean", name="logjac")[..., 0]
    inside = brain_mask(view.stat("logits", 0, stat="mean", name="scan")[..., 0])
    growth = next(row for row in rows if row.region == "largest growth")
    voxel = np.unravel_index(np.argmax(np.where(inside, mean, -np.inf)), mean.shape)
    world = model.affine @ np.array([*voxel, *[0] * (3 - mean.ndim), 1])
    # Slices lie at several heights.
    expected = [*world[:2], None] if name == "2-D" else world[:3].tolist()
    assert [growth.x, growth.y, growth.z] == pytest.approx(expected)
    assert growth.change == pytest.approx(100 * np.expm1(mean[voxel]), rel=0.05, abs=0.05)
    assert growth.change_low <= growth.change <= growth.change_high


def regions_file(place, name):
    """Two regions: the inner of the disc, and what lies to its right above the lowest slices."""
    if name == "3-D":
        labels = np.where(known.distance_mm(name) < 10, 700000001, 0)
        labels[15:] = 5
    else:
        labels = np.zeros((*known.SPATIAL[name], SLICES))
        labels[known.distance_mm(name) < 12] = 700000001
        labels[30:, :, 3:] = 5
    path = place / f"labels-{name}.nii.gz"
    affine = AFFINE if name == "2-D" else VOLUME_AFFINE
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.float32), affine), path)
    (place / f"labels-{name}.tsv").write_text("index\tname\n5\tright side\n")
    stored = nibabel.load(path).get_fdata()
    return path, stored


@pytest.mark.parametrize("done", ["2-D size", "3-D size"], indirect=True)
def test_regions_are_those_that_numpy_finds_at_the_height_of_each_slice(done, place):
    name, _, model, units, view, _ = done
    path, labels = regions_file(place, name)
    rows = fv.anatomy(view, model=model, regions=str(path))
    assert table(view, "anatomy.tsv")[0]["region"] == rows[0].region
    numbers = {"right side": 5.0}
    people = list(dict.fromkeys(unit.start.person for unit in units))
    for row in rows:
        number = numbers.get(row.region, labels.max())
        own, shares, voxels = [], [], 0
        for person in people:
            growth, total = [], 0.0
            for unit in units:
                if unit.start.person != person:
                    continue
                where = labels if unit.start.slice is None else labels[..., unit.start.slice]
                logjac = unit.maps["logjac"][..., 0].astype(float)
                growth.append(logjac[where == number])
                total += np.square(logjac).sum()
            inside = np.concatenate(growth)
            voxels += inside.size
            shares.append(np.square(inside).sum() / total)
            if inside.size:
                own.append(100 * np.mean(np.exp(inside) - 1))
        low, high = stats.t.interval(0.95, len(own) - 1, np.mean(own), stats.sem(own))
        assert (row.voxels, row.people) == (voxels, len(own))
        np.testing.assert_allclose(
            [row.change, row.change_low, row.change_high, row.energy],
            [np.mean(own), low, high, np.mean(shares)],
            rtol=2e-3,
            atol=2e-3,
        )
    assert [abs(row.change) for row in rows] == sorted((abs(r.change) for r in rows), reverse=True)
    assert fv.open_run(view.directory).anatomy() == rows


def test_of_fewer_than_three_people_there_is_a_mean_and_no_t():
    two = measures.over_people(np.ones((2, 4, 5)))
    assert two.t is None and two.people == 2
    np.testing.assert_array_equal(two.mean, np.ones((4, 5)))
    with pytest.raises(ValueError, match="no map"):
        measures.over_people(iter([]))


# What cannot be


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"variants": 36}, r"`variants=36`: `start_image=reference` .* `reference` has 35 images"),
        ({"parameterization": "pixels", "stiffness": None}, r"give `parameterization=deformation`"),
        ({"reference": None}, r"`start_image=reference` takes one for each variant of the scans"),
        ({"mask": "brain.nii"}, r"`mask=brain.nii`: the scans of `start_image=reference`"),
    ],
)
def test_scans_that_are_not_there_are_named(place, cohorts, options, told):
    model = model_of(known.size_network("2-D"), "2-D")
    with pytest.raises(ValueError, match=told):
        visualize(model, "logits", **recipe(place, cohorts, "2-D", **options))


def saved(place, cohorts, directory, **options):
    model = model_of(known.size_network("2-D"), "2-D")
    given = recipe(place, cohorts, "2-D", variants=1, steps=1, **options)
    units = visualize(model, "logits", **given)
    return model, units.save(directory, gallery=False)


def test_what_cannot_be_compared_is_refused_by_name(place, cohorts, tmp_path):
    model, run = saved(place, cohorts, tmp_path / "open", up_to=None)
    with pytest.raises(ValueError, match=r"was made without --up_to: .* such as --up_to=8"):
        fv.anatomy(run, model=model)
    plain = {"parameterization": "fourier", "start_image": None, "stiffness": None}
    model, run = saved(place, cohorts, tmp_path / "texture", **plain)
    with pytest.raises(ValueError, match="no scans whose shape was changed"):
        fv.anatomy(run, model=model)
    with pytest.raises(FileNotFoundError, match=r"`run=.*nothing`"):
        fv.anatomy(tmp_path / "nothing")
    model, run = saved(place, cohorts, tmp_path / "sound")
    labels = tmp_path / "elsewhere.nii.gz"
    far = AFFINE.copy()
    far[0, 3] = 500
    boxes = np.zeros((4, 4, 4), np.float32)
    boxes[2:] = 3
    nibabel.save(nibabel.Nifti1Image(boxes, far), labels)
    with pytest.raises(ValueError, match=r"`regions=.*`: none of its regions lies on the network"):
        fv.anatomy(run, model=model, regions=str(labels))
