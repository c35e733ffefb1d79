"""The launcher that measures what speaks for and against a run's pictures."""

import csv

import numpy as np
import pytest

import featvis_jax as fv
from featvis_jax.results.store import read_run


@pytest.fixture(scope="module")
def run(drive, trained, cohort, place):
    """Pictures of five channels, two of each, and what real scans say of them."""
    out = place / "trust" / "run"
    cache = f"--cache={place / 'cache'}"
    flags = [f"--model={trained(2)[0]}", "--layer=conv2", "--channels=0:5", "--variants=2"]
    made = drive("visualize", [[*flags, "--steps=4", f"--out={out}", "--nogallery"]])[0]
    assert made["status"] == 0, made["errors"]
    common = [f"--run={out}", f"--reference={cohort}", "--reference_images=12", cache]
    others = ("--label=sex", "--label=nobody", f"--regions={place / 'atlas.nii'}")
    outcomes = drive("trust", [common, *([*common, flag] for flag in others)])
    return out, outcomes


def rows_of(out):
    with (out / "trust.tsv").open(newline="") as table:
        return list(csv.DictReader(table, dialect="excel-tab"))


def test_every_picture_has_a_row_and_a_panel(run):
    out, (first, *_) = run
    assert first["status"] == 0, first["errors"]
    rows = rows_of(out)
    assert [(row["channel"], row["variant"]) for row in rows] == [
        (str(channel), variant) for channel in range(5) for variant in "12"
    ]
    records = {record.key: record for record in read_run(out).records()}
    for row in rows:
        record = records["conv2", int(row["channel"]), int(row["variant"])]
        if row["verdict"] != "not measured":
            assert float(row["strength"]) > 0 or record.response <= 0
            # Eight other pictures are of other units.
            assert float(row["standing"]) * 8 == pytest.approx(round(float(row["standing"]) * 8))
    page = (out / "gallery" / "units" / "conv2" / "0003.html").read_text()
    assert "What speaks for and against" in page
    assert "sub-" not in (out / "trust.tsv").read_text()


def test_strength_is_that_of_a_run_with_the_same_reference(run, drive, trained, cohort, place):
    out, _ = run
    again = place / "trust" / "beside"
    flags = [f"--model={trained(2)[0]}", "--layer=conv2", "--channels=0:5", "--variants=2"]
    flags += [f"--reference={cohort}", "--reference_images=12", f"--cache={place / 'cache'}"]
    # Another recipe gives other pictures: what is compared are the references.
    made = drive("visualize", [[*flags, "--steps=1", f"--out={again}", "--nogallery"]])[0]
    assert made["status"] == 0, made["errors"]
    reference = {row.channel: row.reference for row in read_run(again).reference()}
    records = {record.key: record for record in read_run(out).records()}
    for row in rows_of(out):
        if row["strength"] != "n/a":
            record = records["conv2", int(row["channel"]), int(row["variant"])]
            expected = record.response / reference[record.channel]
            np.testing.assert_allclose(float(row["strength"]), expected, rtol=2e-3)


def test_what_does_not_fit_the_network_is_refused(run):
    """Columns, since it looks for lesions; and regions, since its slices lie at any height."""
    _, (_, *refused) = run
    for name, outcome in zip(("--label", "--label", "--regions"), refused, strict=True):
        assert outcome["status"] == 2
        assert name in outcome["errors"]
        assert "Traceback" not in outcome["errors"]


def test_bad_input_is_named(drive, place, cohort):
    told = {
        "--run": [f"--run={place / 'nothing'}", f"--reference={cohort}"],
        "--reference": [f"--run={place}"],
    }
    for text, outcome in zip(told, drive("trust", list(told.values())), strict=True):
        assert outcome["status"] == 2
        assert text in outcome["errors"]
        assert "Traceback" not in outcome["errors"]


@pytest.mark.optax
def test_a_network_that_is_there_in_python_is_taken_as_it_is(trained, cohort, place):
    model = fv.load(trained(2)[0])
    # As one that no file holds.
    network = model._replace(card={**model.card, "name": "mine"})
    units = fv.visualize(network, "conv1", channels=[0, 1], steps=2)
    saved = units.save(place / "trust" / "python", gallery=False)
    told = {"reference": cohort, "reference_images": 4, "cache": str(place / "cache")}
    rows = fv.trust(saved, model=network, **told)
    assert [row.key for row in rows] == [("conv1", 0, 1), ("conv1", 1, 1)]
    assert fv.open_run(saved.directory).trust() == rows
    other = fv.load(trained(2)[0], random_weights=0)
    with pytest.raises(ValueError, match="give the model that the run was made with"):
        fv.trust(saved, model=other, **told)
