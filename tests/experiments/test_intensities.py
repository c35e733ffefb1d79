"""Networks that were trained on z-scores see z-scores: of cohorts, of single scans, in pictures."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from featvis_jax.maximize import parameterizations
from featvis_jax.results.gallery import site
from featvis_jax.results.store import read_run
from tests.experiments.test_channels import AFFINE, scan

# Their first two channels are the image and its negative: what drives them most are its ends.
NETWORKS = """
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

def made(shape):
    rank = len(shape) - 1
    def net(weights, x):
        axes = "XYZ"[:rank]
        names = ("N" + axes + "C", axes + "IO", "N" + axes + "C")
        out = lax.conv_general_dilated(x, weights, (1,) * rank, "SAME", dimension_numbers=names)
        return checkpoint_name(out, "stem")
    weights = np.zeros((1,) * rank + (shape[-1], 2), "f4")
    weights[..., 0, 0], weights[..., -1, 1] = 1, -1
    return net, weights, shape

def volumes():
    return made((12, 14, 6, 1))

def large():
    return made((24, 26, 22, 1))

def contrasts():
    return made((12, 14, 2))

def large_contrasts():
    return made((24, 26, 2))
"""
OPTIONS = ["--layer=stem", "--steps=2", "--batch=2", "--regularization=none"]
NAMED = "--channel_names=T1w,FLAIR"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("intensities")
    (place / "nets.py").write_text(NETWORKS)
    for name, first in (("cohort", 0), ("others", 50), ("flat", 0)):
        for person in range(3):
            for number, contrast in enumerate(("T1w", "FLAIR")):
                stem = f"sub-{person}/anat/sub-{person}_{contrast}.nii.gz"
                path = place / name / stem
                scan(path, (12, 14, 6), first + 10 * person + number, high=900.0)
                stripped(path, flat=name == "flat" and person == 1)
        rows = "".join(f"sub-{person}\n" for person in range(3))
        (place / name / "participants.tsv").write_text("participant_id\n" + rows)
    for person in range(3):
        tomogram(place / "tomograms" / f"sub-{person}/anat/sub-{person}_CT.nii.gz", 80 + person)
        tomogram(place / "pairs" / f"sub-{person}/anat/sub-{person}_CT.nii.gz", 90 + person)
        path = place / "pairs" / f"sub-{person}/anat/sub-{person}_T1w.nii.gz"
        scan(path, (12, 14, 6), 70 + person, high=900.0)
    for name in ("tomograms", "pairs"):
        (place / name / "participants.tsv").write_text("participant_id\n" + rows)
    return place


def tomogram(path: Path, seed: int) -> None:
    """Air, and bone in a third of the voxels, in whole Hounsfield units."""
    scan(path, (12, 14, 6), seed, high=900.0)
    data = np.round(stored(path) * 4600 / 900 - 1500).clip(-1024, 3071)
    nibabel.save(Nifti1Image(data.astype(np.int16), AFFINE), path)


def stored(path: Path) -> np.ndarray:
    """The voxels of a file."""
    return Nifti1Image.from_filename(path).get_fdata(dtype=np.float32)


def stripped(path: Path, *, flat: bool) -> None:
    """Put zeros around a scan; flat, one intensity is left of its brain."""
    data = stored(path)
    data[data < 400] = 0
    data = np.where(data > 0, 500.0, 0.0) if flat else data
    nibabel.save(Nifti1Image(data.astype(np.float32), AFFINE), path)


def z_scores(path: Path, *, nonzero: bool) -> np.ndarray:
    """What NumPy makes of a scan."""
    data = stored(path).astype(np.float64)
    counted = data != 0 if nonzero else np.ones(data.shape, bool)
    scores = np.where(counted, (data - data[counted].mean()) / data[counted].std(), 0)
    return scores.astype(np.float32)


def images(files: Path, contrast: str, *, nonzero: bool) -> np.ndarray:
    """Those of the cohort, as many bits as the cache has of each voxel."""
    paths = sorted((files / "cohort").glob(f"*/anat/*_{contrast}.nii.gz"))
    return np.stack([z_scores(path, nonzero=nonzero) for path in paths]).astype(np.float16)


def spanned(images: np.ndarray) -> np.ndarray:
    """Percentiles 0.1 and 99.9 of each channel."""
    voxels = images.reshape(-1, images.shape[-1]).astype(np.float64)
    return np.percentile(voxels, [0.1, 99.9], axis=0, method="inverted_cdf").T


MADE = {
    "volumes": ("volumes", ["--scaling=zscore", "--reference={place}/cohort"]),
    "again": ("volumes", ["--scaling=zscore", "--reference={place}/cohort"]),
    "phase": (
        "contrasts",
        [
            *["--scaling=zscore_nonzero", "--reference={place}/cohort", "--parameterization=phase"],
            *[NAMED, "--real_examples={place}/cohort"],
        ],
    ),
    "single": (
        "contrasts",
        [
            *["--scaling=zscore", "--intensity_range=-3,4", NAMED, "--grid={place}/slice.nii.gz"],
            "--hold=T1w:{place}/cohort/sub-0/anat/sub-0_T1w.nii.gz",
            "--start_image={place}/cohort/sub-1/anat/sub-1_T1w.nii.gz,"
            "{place}/cohort/sub-1/anat/sub-1_FLAIR.nii.gz",
        ],
    ),
    "one scan": (
        "contrasts",
        [
            *["--scaling=zscore", NAMED, "--parameterization=phase"],
            "--reference={place}/cohort/sub-0/anat/sub-0_T1w.nii.gz,"
            "{place}/cohort/sub-0/anat/sub-0_FLAIR.nii.gz",
        ],
    ),
    "raw": ("volumes", ["--scaling=raw", "--reference={place}/tomograms", "--channel_names=CT"]),
    "raw, told": (
        "volumes",
        [
            *["--scaling=raw", "--intensity_range=-1024,3071", "--parameterization=pixels"],
            "--start_image={place}/tomograms/sub-0/anat/sub-0_CT.nii.gz",
        ],
    ),
    "both": (
        "contrasts",
        [
            *["--scaling=raw", "--channel_names=T1w,CT", "--reference={place}/pairs"],
            "--real_examples={place}/pairs",
        ],
    ),
    "both, told": (
        "contrasts",
        [
            *["--scaling=raw", "--intensity_range=0,900,-1024,3071", "--channel_names=T1w,CT"],
            *["--grid={place}/slice.nii.gz", "--parameterization=pixels", "--nogallery"],
            "--hold=CT:{place}/pairs/sub-0/anat/sub-0_CT.nii.gz",
            "--start_image={place}/pairs/sub-1/anat/sub-1_T1w.nii.gz,"
            "{place}/pairs/sub-1/anat/sub-1_CT.nii.gz",
        ],
    ),
    "nobody says": ("volumes", ["--reference={place}/cohort"]),
    "no reference": ("volumes", []),
}
COHORT = "--reference={place}/cohort"
SINGLE = "--start_image={place}/cohort/sub-0/anat/sub-0_T1w.nii.gz"
REFUSED = {
    "no range": (
        "volumes",
        ["--scaling=zscore"],
        [
            "--scaling=zscore: the range of the images (z-score of each scan) is not known",
            "give --reference=DIR",
            "--intensity_range=",
        ],
    ),
    "no range of raw intensities": (
        "volumes",
        ["--scaling=raw"],
        ["--scaling=raw: the range of the images (raw intensity", "give --reference=DIR"],
    ),
    "0 to 1 of z-scores": (
        "volumes",
        ["--scaling=zscore_nonzero", "--intensity_range=0,1", COHORT],
        ["--intensity_range=0,1: the z-scores of --scaling=zscore_nonzero lie around 0"],
    ),
    "-2 to 4 of 0..1": (
        "volumes",
        ["--scaling=unit", "--intensity_range=-2,4"],
        ["--intensity_range=-2,4: --scaling=unit scales scans to 0..1"],
    ),
    "no order": (
        "volumes",
        ["--intensity_range=2,1"],
        ["--intensity_range=2,1: expected LOW,HIGH"],
    ),
    "no order of the second": (
        "contrasts",
        ["--intensity_range=0,1,4,-2"],
        ["--intensity_range=0,1,4,-2: 4,-2: expected LOW,HIGH"],
    ),
    "half a pair": (
        "contrasts",
        ["--intensity_range=0,1,4"],
        ["--intensity_range=0,1,4: 3 values; expected LOW,HIGH, or such a pair for each"],
    ),
    "a pair too many": (
        "contrasts",
        ["--intensity_range=0,1,-2,4,0,3"],
        ["--intensity_range=0,1,-2,4,0,3: 3 pairs; expected LOW,HIGH, or 2 pairs"],
    ),
    "one contrast beyond its range": (
        "contrasts",
        [
            *["--scaling=raw", "--intensity_range=0,900,0,900", "--channel_names=T1w,CT"],
            *["--grid={place}/slice.nii.gz", "--intensity_range=0,900,0,901"],
            "--hold=CT:{place}/pairs/sub-0/anat/sub-0_CT.nii.gz",
        ],
        ["--hold=CT:{place}/pairs", ": CT: intensities from -1024", "range of 0 to 901"],
    ),
    "constant": (
        "volumes",
        ["--scaling=zscore_nonzero", "--reference={place}/flat"],
        ["--reference={place}/flat", "1 of 3 scans", "sub-1_T1w.nii.gz", "no standard deviation"],
    ),
    "a scan too few": (
        "contrasts",
        ["--scaling=zscore", "--reference={place}/cohort/sub-0/anat/sub-0_T1w.nii.gz"],
        ["sub-0_T1w.nii.gz: expected 2 scans, one for each of the network's channels"],
    ),
    "no scan": (
        "volumes",
        ["--scaling=zscore", "--reference={place}/nobody.nii.gz"],
        ["--reference={place}/nobody.nii.gz: there is no such file"],
    ),
    "phase of nobody": (
        "volumes",
        ["--parameterization=phase"],
        ["--parameterization=phase needs", "give --reference=DIR, a cohort to compute it from"],
    ),
    "scanner's units": (
        "volumes",
        [SINGLE],
        ["--start_image={place}/cohort/sub-0", "give --scaling, so that it is scaled"],
    ),
    "narrow": (
        "volumes",
        [SINGLE, "--scaling=zscore", "--intensity_range=-0.5,0.5"],
        ["--start_image=", "once it is scaled", "% of them beyond the network's range of -0.5"],
    ),
}


@pytest.fixture(scope="module")
def outcomes(drive, files):
    """Every run and every refusal, in one process."""
    middle = AFFINE.copy()
    middle[:3, 3] += 3 * middle[:3, 2]
    image = Nifti1Image(np.zeros((12, 14, 1), np.float32), middle)
    nibabel.save(image, files / "slice.nii.gz")
    rows = {name: (net, options) for name, (net, options, *_) in {**MADE, **REFUSED}.items()}
    rows["another"] = ("volumes", ["--scaling=zscore", "--reference={place}/others"])
    rows["unit"] = ("volumes", ["--scaling=unit", "--reference={place}/cohort"])
    place = {"again": "volumes", "another": "volumes", "unit": "volumes"}
    commands = [
        [
            *[f"--model={files / 'nets.py'}:{net}", *OPTIONS, f"--cache={files / 'cache'}"],
            *[option.format(place=files) for option in options],
            f"--out={files / place.get(name, name).replace(' ', '-')}",
        ]
        for name, (net, options) in rows.items()
    ]
    return dict(zip(rows, drive("visualize", commands), strict=True))


@pytest.fixture(scope="module")
def root(outcomes, files) -> Path:
    for name in MADE:
        assert outcomes[name]["status"] == 0, outcomes[name]["errors"]
    return files


def configuration(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())["configuration"]


def test_a_cohort_reaches_the_network_as_z_scores_and_gives_their_range(outcomes, root):
    seen = images(root, "T1w", nonzero=False)
    values = [row.reference for row in read_run(root / "volumes").reference()]
    np.testing.assert_allclose(values, [seen.max(), -seen.min()], rtol=1e-6)
    ends = np.percentile(seen.astype(np.float64), [0.1, 99.9], method="inverted_cdf")
    told = configuration(root / "volumes")["intensities"]
    assert (told["scaling"], told["unit"]) == ("zscore", "z-score of each scan")
    np.testing.assert_allclose(told["range"], ends, atol=5.1e-4)
    assert "may answer to the range alone" not in outcomes["volumes"]["errors"]
    low, high = told["range"]
    assert f"intensity_range=({low}, {high})" in configuration(root / "volumes")["parameterization"]
    assert read_run(root / "volumes").image("stem", 0, 1)[0].max() <= np.float32(high)


def test_raw_intensities_reach_the_network_as_they_are(root):
    paths = sorted((root / "tomograms").glob("*/anat/*_CT.nii.gz"))
    seen = np.stack([stored(path) for path in paths])
    values = [row.reference for row in read_run(root / "raw").reference()]
    assert values == [seen.max(), -seen.min()] == [3071, 1024]
    told = configuration(root / "raw")["intensities"]
    words = "raw intensity of each scan, HU in CT"
    assert (told["scaling"], told["unit"]) == ("raw", words)
    assert told["range"] == list(np.percentile(seen, [0.1, 99.9], method="inverted_cdf"))
    (page,) = (root / "raw" / "gallery").glob("units/**/0001.html")
    assert f"<span>{words}</span></span>" in page.read_text()
    # Two steps change little of the start image, and nothing of what is as bright as it may be.
    start = stored(paths[0])
    (path,) = read_run(root / "raw,-told").image_paths("stem", 0, 1)
    np.testing.assert_allclose(stored(path)[start == 3071], 3071, atol=0.5)
    assert np.abs(stored(path) - start).max() < 500


def test_contrasts_in_units_of_their_own_have_ranges_of_their_own(outcomes, root):
    run, told = read_run(root / "both"), configuration(root / "both")
    paths = [
        root / f"pairs/sub-{person}/anat/sub-{person}_{name}.nii.gz"
        for person in range(3)
        for name in ("T1w", "CT")
    ]
    slices = np.moveaxis([stored(path) for path in paths], 3, 1).reshape(3, 2, 6, 12, 14)
    ranges = told["intensities"]["range"]
    np.testing.assert_allclose(ranges, spanned(np.moveaxis(slices, 1, -1)), rtol=1e-3)
    assert "intensity_range=(0.0, 1.0)" in told["parameterization"]
    values = [row.reference for row in run.reference()]
    np.testing.assert_allclose(values, [slices[:, 0].max(), 1024], rtol=1e-6)
    assert "may answer to the range alone" not in outcomes["both"]["errors"]
    image, _ = run.image("stem", 0)
    for number, (low, high) in enumerate(ranges):
        own = image[..., number]
        assert low <= own.min() < low + 0.4 * (high - low) < own.max() <= high
        header = Nifti1Image.from_filename(run.image_paths("stem", 0, 1)[number]).header
        assert (header["cal_min"], header["cal_max"]) == (np.float32(low), np.float32(high))
    (page,) = (root / "both" / "gallery").glob("units/**/0000.html")
    for low, high in ranges:
        ends = [site.number(end) for end in (low, high)]
        assert all(f">{end}</span>" in page.read_text() for end in ends)
    assert (root / "both" / "real.tsv").is_file()


def test_trust_sees_pictures_of_contrasts_as_the_run_did(drive, root):
    flags = [f"--run={root / 'both'}", f"--reference={root / 'pairs'}", f"--cache={root / 'cache'}"]
    (outcome,) = drive("trust", [flags])
    assert outcome["status"] == 0, outcome["errors"]
    with (root / "both" / "trust.tsv").open(newline="") as table:
        rows = list(csv.DictReader(table, dialect="excel-tab"))
    records = read_run(root / "both").records()
    found = [float(row["strength"]) for row in rows]
    np.testing.assert_allclose(found, [record.strength for record in records], rtol=1e-4)


def test_scans_that_are_given_are_in_the_units_of_their_contrast(root):
    image, _ = read_run(root / "both,-told").image("stem", 0)
    held, start = (
        stored(root / f"pairs/sub-{person}/anat/sub-{person}_{name}.nii.gz")[:, :, 3]
        for person, name in ((0, "CT"), (1, "T1w"))
    )
    np.testing.assert_allclose(image[..., 1], held, atol=1e-3)
    # Two steps change little of the range of 900.
    assert np.abs(image[..., 0] - start).max() < 120


def test_phases_keep_to_the_spectrum_of_each_contrast_of_the_reference(root):
    both = [images(root, contrast, nonzero=True) for contrast in ("T1w", "FLAIR")]
    volumes = np.stack(both, axis=-1).astype(np.float32)
    told = configuration(root / "phase")
    # The network's slices are those with a brain, at every height that the cohort has one.
    used = [volume[:, :, z] for volume in volumes for z in range(6) if volume[:, :, z].any()]
    assert told["reference"]["images"] == len(used)
    # Of shares of the range that each contrast spans.
    ranges = told["intensities"]["range"]
    assert told["input_channels"]["ranges"] == ranges
    np.testing.assert_allclose(ranges, spanned(np.stack(used)), atol=5.1e-4)
    low, high = np.array(ranges, np.float32).T
    shares = [(image - low) / (high - low) for image in used]
    made = parameterizations.phase(parameterizations.mean_magnitude_spectrum(shares))
    assert told["parameterization"] == made.description
    largest = np.max([image.max((0, 1)) for image in used], axis=0)
    smallest = np.min([image.min((0, 1)) for image in used], axis=0)
    values = [row.reference for row in read_run(root / "phase").reference()]
    np.testing.assert_allclose(values, [largest[0], -smallest[1]], rtol=1e-6)
    assert (root / "phase" / "real.tsv").is_file()


def test_a_reference_may_be_one_scan(root):
    both = [images(root, contrast, nonzero=False)[0] for contrast in ("T1w", "FLAIR")]
    told = configuration(root / "one-scan")
    assert (told["reference"]["scans"], told["reference"]["of"]) == (2, "slices")
    values = [row.reference for row in read_run(root / "one-scan").reference()]
    np.testing.assert_allclose(values, [both[0].max(), -both[1].min()], rtol=1e-6)


def test_single_scans_are_scaled_as_a_whole_before_a_slice_is_taken(root):
    held = z_scores(root / "cohort/sub-0/anat/sub-0_T1w.nii.gz", nonzero=False)[:, :, 3]
    start = z_scores(root / "cohort/sub-1/anat/sub-1_FLAIR.nii.gz", nonzero=False)[:, :, 3]
    run = read_run(root / "single")
    image = run.image("stem", 0, 1)[0]
    np.testing.assert_allclose(image[..., 0], held, atol=1e-6)
    # The unit does not see the second contrast, which stays what it was.
    np.testing.assert_allclose(image[..., 1], start, atol=1e-3)


def test_files_and_pages_say_what_the_numbers_are_where_somebody_knows(root):
    words = "z-score of each scan"
    for name, told in (("volumes", words), ("phase", f"{words} over its nonzero voxels")):
        run = read_run(root / name)
        for path in run.image_paths("stem", 1, 1):
            descrip = Nifti1Image.from_filename(path).header["descrip"].item()
            assert bytes(descrip).decode() == f"intensity: {told}"
        pages = [page.read_text() for page in (root / name / "gallery").glob("*/**/*.html")]
        assert len(pages) == 3
        assert all(f"<span>{told}</span></span>" in page for page in pages)
    (path,) = read_run(root / "no-reference").image_paths("stem", 1, 1)
    assert Nifti1Image.from_filename(path).header["descrip"].item() == b""
    for page in (root / "no-reference" / "gallery").glob("*/**/*.html"):
        assert words not in page.read_text()
        assert "0 to 1 of each scan" not in page.read_text()


def test_without_a_word_of_it_a_reference_is_scaled_to_0_to_1_and_says_so(outcomes, root):
    assert (
        "its scans are scaled to 0..1 each, since nobody says" in outcomes["nobody says"]["errors"]
    )
    assert "--scaling=unit|zscore|zscore_nonzero|raw" in outcomes["nobody says"]["errors"]
    told = configuration(root / "nobody-says")["intensities"]
    assert told == {"scaling": "unit", "unit": "0 to 1 of each scan", "range": [0.0, 1.0]}
    assert configuration(root / "no-reference")["intensities"] is None


def test_a_run_goes_on_with_the_same_intensities_alone(outcomes, root, refused):
    assert "of_image" not in outcomes["again"]["compiled"]
    for name, told in (("another", "reference.scans_sha256"), ("unit", "intensities.scaling")):
        assert outcomes[name]["status"] == 2
        assert told in outcomes[name]["errors"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_itself_is_refused(outcomes, refused, files, name):
    refused(outcomes[name], [text.format(place=files) for text in REFUSED[name][2]])
    assert not (files / name.replace(" ", "-")).exists()


def test_comparisons_begin_at_z_scores_too(drive, files):
    out, cohort = files / "comparison", files / "large"
    path = cohort / "sub-1" / "anat" / "sub-1_T1w.nii.gz"
    scan(path, (24, 26, 22), 7, high=900.0)
    (cohort / "participants.tsv").write_text("participant_id\nsub-1\n")
    (outcome,) = drive(
        "compare",
        [
            [
                *[f"--model={files / 'nets.py'}:large", f"--cohort={cohort}"],
                *["--layer=stem", "--steps=1", "--channels=0", "--parameterizations=from_image"],
                *["--scaling=zscore", "--intensity_range=-1.5,2", f"--out={out}"],
                *[f"--cache={files / 'cache'}", "--regularization=none"],
            ]
        ],
    )
    assert outcome["status"] == 0, outcome["errors"]
    with (out / "comparison.tsv").open(newline="") as table:
        (row,) = csv.DictReader(table, dialect="excel-tab")
    start = np.clip(z_scores(path, nonzero=False).astype(np.float64), -1.5, 2)
    assert abs(start.mean()) > 1e-3
    assert float(row["initial_objective"]) == pytest.approx(start.mean(), abs=1e-4)
    (path,) = (out / "images").rglob("*.nii.gz")
    descrip = Nifti1Image.from_filename(path).header["descrip"].item()
    assert bytes(descrip) == b"intensity: z-score of each scan"


def test_comparisons_show_each_contrast_in_its_own_units(drive, files):
    out = files / "comparison-both"
    (outcome,) = drive(
        "compare",
        [
            [
                *[f"--model={files / 'nets.py'}:large_contrasts", "--layer=stem", "--steps=2"],
                *["--parameterizations=pixels,fourier", "--regularization=none", f"--out={out}"],
                *["--scaling=raw", "--intensity_range=0,900,-1024,3071"],
                "--channel_names=T1w,CT",
            ]
        ],
    )
    assert outcome["status"] == 0, outcome["errors"]
    with (out / "comparison.tsv").open(newline="") as table:
        rows = list(csv.DictReader(table, dialect="excel-tab"))
    # The means of a T1w and of a CT whose sign is turned: both begin in the middle of their range.
    starts = {"0": (450, 900), "1": (-1023.5, 4095)}
    for row in rows:
        middle, width = starts[row["channel"]]
        assert float(row["initial_objective"]) == pytest.approx(middle, abs=0.1 * width)
        assert float(row["objective"]) > float(row["initial_objective"])
        contrast = ("T1w", "CT")[int(row["channel"])]
        name = f"{int(row['channel']):04d}_{contrast}.nii.gz"
        image = stored(out / "images" / row["parameterization"] / name)
        sign = -1 if contrast == "CT" else 1
        assert sign * image.mean() == pytest.approx(float(row["objective"]), rel=1e-3)
    with (out / "summary.tsv").open(newline="") as table:
        looks = {row["parameterization"]: row for row in csv.DictReader(table, dialect="excel-tab")}
    assert all(float(row["total_variation"]) < 1 for row in looks.values())
