"""Trained models on disk: what is saved comes back, and what does not fit together is refused."""

import copy
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featvis_jax.checkpoints import load_model, save_model, seal_model, weights_hash, zoo_names
from featvis_jax.nn.cnn import CNN
from tests import damaged_models

SMALL = (2, 3, 4, 4, 4)
AFFINE = [[-1.5, 0.0, 0.0, 20.25], [0.0, 1.5, 0.0, -30.0], [0.0, 0.0, 2.0, 8.0], [0.0, 0, 0, 1]]


def random_variables(module, shape, *, seed=0):
    rng = np.random.default_rng(seed)
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32),
        dict(jax.eval_shape(module.init, jax.random.key(0), image)),
    )


def make_card(shape):
    return {
        "name": "small",
        "task": "square_lesion",
        "class_names": ["clean", "lesion"],
        "grid": {"shape": list(shape), "affine": AFFINE},
        "intensity_range": [0, 1.25],
        "licence": "kept, though nobody asks for it",
    }


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for leaf, reference in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == reference.dtype
        np.testing.assert_array_equal(leaf, reference)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model on disk that no test changes, and its weights."""
    directory = tmp_path_factory.mktemp("models") / "small"
    module = CNN(rank=2, features=SMALL)
    variables = random_variables(module, (28, 29, 1))
    spectrum = np.linspace(0, 1, 28 * 15, dtype=np.float32).reshape(28, 15, 1)
    save_model(directory, module, variables, make_card((28, 29)), spectrum=spectrum)
    return directory, variables


@pytest.fixture
def copied(saved, tmp_path):
    """The same, to be spoiled."""
    shutil.copytree(saved[0], tmp_path / "copy")
    return tmp_path / "copy"


def edit_card(directory, change):
    """Change a card, and seal it again as if it had been saved so."""
    card = json.loads((directory / "card.json").read_text())
    change(card)
    card.pop("card_sha256")
    text = json.dumps(card, sort_keys=True, separators=(",", ":"))
    card["card_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (directory / "card.json").write_text(json.dumps(card))


def test_a_model_comes_back_bit_for_bit(saved, rng):
    directory, variables = saved
    model = load_model(directory)
    assert_same(model.variables, variables)
    assert model.module == CNN(rank=2, features=SMALL)
    assert model.image_shape == (28, 29, 1)
    assert model.affine.dtype == np.float64
    np.testing.assert_array_equal(model.affine, AFFINE)
    assert model.intensity_range == (0.0, 1.25)
    assert all(isinstance(bound, float) for bound in model.intensity_range)
    given = make_card((28, 29))
    assert {key: model.card[key] for key in given} == given
    assert model.card["weights_sha256"] == weights_hash(variables)

    image = jnp.asarray(rng.random((28, 29, 1), np.float32))
    apply = jax.jit(model.module.apply)
    np.testing.assert_array_equal(apply(model.variables, image), apply(variables, image))


def test_a_path_may_be_text_and_relative(saved, monkeypatch):
    directory, variables = saved
    monkeypatch.chdir(directory.parent)
    assert_same(load_model(directory.name).variables, variables)


def test_what_training_leaves_is_found_below_its_directory(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "run" / "model")
    assert_same(load_model(tmp_path / "run").variables, saved[1])


def test_every_option_of_a_3d_network_comes_back(tmp_path):
    module = CNN(
        rank=3,
        num_classes=3,
        features=[2, 3],
        pools=[None, (2, 2)],
        kernel_size=2,
        padding="SAME",
        head="mean",
    )
    save_model(tmp_path, module, random_variables(module, (6, 7, 8, 1)), make_card((6, 7, 8)))
    model = load_model(tmp_path)
    assert model.module == CNN(
        rank=3,
        num_classes=3,
        features=(2, 3),
        pools=(None, (2, 2)),
        kernel_size=2,
        padding="SAME",
        head="mean",
    )
    assert model.image_shape == (6, 7, 8, 1)


def test_saving_replaces_what_was_there(copied):
    module = CNN(rank=2, features=(3, 3, 4, 4, 4), head="mean")
    variables = random_variables(module, (40, 44, 1), seed=1)
    save_model(copied, module, variables, make_card((40, 44)))
    model = load_model(copied)
    assert model.module == module
    assert_same(model.variables, variables)


def test_half_a_model_of_a_killed_process_is_removed_without_a_word(tmp_path, caplog):
    half = tmp_path / "weights.orbax-checkpoint-tmp"
    (half / "params").mkdir(parents=True)
    module = CNN(rank=2, features=(3, 3, 4, 4, 4), head="mean")
    save_model(tmp_path, module, random_variables(module, (40, 44, 1)), make_card((40, 44)))
    assert not half.exists()
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == []


def test_an_incomplete_card_is_refused_before_anything_is_written(tmp_path):
    module = CNN(rank=2, features=SMALL)
    card = make_card((28, 29))
    del card["grid"], card["task"]
    with pytest.raises(ValueError, match=r"card lacks \['task', 'grid'\]"):
        save_model(tmp_path / "new", module, random_variables(module, (28, 29, 1)), card)
    assert not (tmp_path / "new").exists()


def test_saving_leaves_the_given_card_alone(tmp_path):
    module = CNN(rank=2, features=(2,), pools=(None,), head="mean")
    card = make_card((5, 5))
    given = copy.deepcopy(card)
    save_model(tmp_path, module, random_variables(module, (5, 5, 1)), card)
    assert card == given


def test_the_hash_covers_names_shapes_types_and_values():
    weights = {"params": {"a": np.arange(6, dtype=np.float32), "b": np.float32(2)}}
    digest = hashlib.sha256()
    digest.update(b"['params']['a'] float32 (6,)" + np.arange(6, dtype="<f4").tobytes())
    # A scalar counts as one of length 1.
    digest.update(b"['params']['b'] float32 (1,)" + np.array(2, "<f4").tobytes())
    found = weights_hash(jax.tree.map(jnp.asarray, weights))
    # Written down, since a card of today must be understood by every later version.
    assert found == digest.hexdigest()
    a, b = weights["params"]["a"], weights["params"]["b"]
    others = [
        {"params": {"a": a.reshape(2, 3), "b": b}},
        {"params": {"a": a, "c": b}},
        {"params": {"a": np.nextafter(a, np.float32(9)), "b": b}},
        {"params": {"a": a.astype(np.int32), "b": b}},
    ]
    for other in others:
        assert weights_hash(jax.tree.map(jnp.asarray, other)) != found


def test_weights_of_another_model_are_refused(copied, tmp_path):
    module = CNN(rank=2, features=SMALL)
    variables = random_variables(module, (28, 29, 1), seed=5)
    save_model(tmp_path / "other", module, variables, make_card((28, 29)))
    shutil.rmtree(copied / "weights")
    shutil.copytree(tmp_path / "other" / "weights", copied / "weights")
    with pytest.raises(ValueError, match=r"copy/weights/.* has the SHA-256 .* changed or cut"):
        load_model(copied)
    files = json.loads((tmp_path / "other" / "card.json").read_text())["files_sha256"]
    edit_card(copied, lambda card: card.update(files_sha256=files))
    with pytest.raises(
        ValueError, match=r"copy/weights hashes to .* but card.json says .* not of the same"
    ):
        load_model(copied)


def larger_network(card):
    card["architecture"]["features"] = [2, 3, 4, 4, 8]


def larger_grid(card):
    card["grid"]["shape"] = [40, 44]


def unknown_option(card):
    card["architecture"]["depth"] = 5


def grid_too_small(card):
    card["grid"]["shape"] = [12, 13]


def other_hash(card):
    card["weights_sha256"] = "0" * 64


def no_hash(card):
    del card["weights_sha256"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (larger_network, r"params/conv5/bias is \(4,\) there and \(8,\) by the card"),
        (larger_grid, r"params/logits/kernel is \(4, 2\) there and \(80, 2\) by the card"),
        (unknown_option, r"card.json describes no network .*'depth'"),
        (grid_too_small, r"card.json describes no network .*larger input grid"),
        (other_hash, r"weights hashes to [0-9a-f]{64}, but card.json says 0{64}"),
        (no_hash, r"card.json lacks \['weights_sha256'\]: copy or save the model again"),
    ],
)
def test_a_card_that_does_not_fit_its_weights_is_refused(copied, change, message):
    edit_card(copied, change)
    with pytest.raises(ValueError, match=message):
        load_model(copied)


@pytest.mark.parametrize("text", ["{", ""])
def test_a_card_that_is_not_json_is_refused(copied, text):
    (copied / "card.json").write_text(text)
    with pytest.raises(ValueError, match=r"copy/card.json is not JSON"):
        load_model(copied)


@pytest.mark.parametrize("text", ["[]", '"card"', "7"])
def test_a_card_that_is_no_card_is_refused(copied, text):
    (copied / "card.json").write_text(text)
    with pytest.raises(ValueError, match=r"copy/card.json holds .*, not a card"):
        load_model(copied)


def test_a_card_may_be_laid_out_anew_but_not_changed(copied):
    card = json.loads((copied / "card.json").read_text())
    (copied / "card.json").write_text(json.dumps(card, indent=7, sort_keys=True))
    load_model(copied)
    card["intensity_range"] = [0, 1.5]
    (copied / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"copy/card.json hashes to .* was changed after"):
        load_model(copied)
    del card["card_sha256"]
    (copied / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"copy/card.json lacks \['card_sha256'\].* seal_model"):
        load_model(copied)
    # A change that is meant, and a model of a version without checksums.
    del card["files_sha256"]
    (copied / "card.json").write_text(json.dumps(card))
    seal_model(copied)
    assert load_model(copied).intensity_range == (0.0, 1.5)


@pytest.mark.parametrize("damage", ["gone", "cut", "emptied"])
@pytest.mark.parametrize("pattern", ["_METADATA", "manifest.ocdbt", "ocdbt.*/d/*", "d/*"])
def test_a_damaged_checkpoint_is_told_in_one_line(copied, pattern, damage):
    for path in (copied / "weights").glob(pattern):
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 * (damage == "cut")])
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_model(copied)
    message = str(caught.value)
    assert re.search(r"copy/weights/\S+ (is missing|has the SHA-256)", message)
    assert "copy or save the model again" in message
    assert "\n" not in message


def test_missing_weights_are_refused(copied):
    shutil.rmtree(copied / "weights")
    with pytest.raises(
        FileNotFoundError, match=r"copy/weights/.* is missing: .* not saved or copied"
    ):
        load_model(copied)


def test_one_byte_of_the_weights_is_noticed(copied):
    data = max((copied / "weights").rglob("d/*"), key=lambda path: path.stat().st_size)
    whole = bytearray(data.read_bytes())
    whole[len(whole) // 2] ^= 1
    data.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match=r"copy/weights/.*d/.* has the SHA-256"):
        load_model(copied)


def test_a_spectrum_that_is_not_the_saved_one_is_refused(copied):
    path = copied / "spectrum.npy"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-4] + b"\0\0\0\0", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"copy/spectrum.npy has .* changed or cut"):
            load_model(copied)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"copy/spectrum.npy is missing"):
        load_model(copied)


@settings(derandomize=True, deadline=None, max_examples=60, database=None)
@given(st.randoms(use_true_random=False))
def test_whatever_happens_to_its_files_a_model_is_the_saved_one_or_refused(random):
    """`tests/stress/fuzz_models.py` does the same ten thousand times."""
    with tempfile.TemporaryDirectory() as folder:
        done, outcome = damaged_models.case(random, Path(folder))
    assert outcome in ("read", "refused"), done


@pytest.mark.parametrize("file", ["card.json", "spectrum.npy", "weights/_METADATA"])
def test_a_pointer_in_place_of_a_file_says_what_fetches_it(copied, file):
    (copied / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(FileNotFoundError, match=rf"{file}: a git-LFS pointer .* lfs pull"):
        load_model(copied)
    (copied / file).unlink()
    (copied / file).symlink_to(".git/annex/objects/aa/bb/MD5E-s9--0.json/MD5E-s9--0.json")
    with pytest.raises(FileNotFoundError, match=rf"{file}: a DataLad .* datalad get"):
        load_model(copied)


def test_no_spectrum_of_an_earlier_model_is_left_behind(copied):
    module = CNN(rank=2, features=SMALL)
    save_model(copied, module, random_variables(module, (28, 29, 1)), make_card((28, 29)))
    assert not (copied / "spectrum.npy").exists()
    assert load_model(copied).spectrum is None


@pytest.mark.parametrize("name", ["square_lesion", "Square-Lesion", "sqare-lesion"])
def test_a_name_that_is_nearly_one_of_the_zoo_is_answered_with_that(name):
    with pytest.raises(FileNotFoundError, match=r"Did you mean square-lesion\?"):
        load_model(name)


def test_an_unknown_name_is_answered_with_the_zoo(tmp_path):
    for name in ("no-such-model", tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            load_model(name)
        message = str(caught.value)
        assert repr(str(name)) in message
        assert f"The zoo has: {', '.join(zoo_names())}." in message
        assert "experiments.train" in message


@pytest.mark.parametrize("name", zoo_names())
def test_a_model_of_the_zoo_is_whole_and_does_its_job(name):
    model = load_model(name)
    assert model.card["name"] == name
    assert len(model.image_shape) == model.module.rank + 1
    assert len(model.card["class_names"]) == model.module.num_classes
    assert model.affine.shape == (4, 4)
    assert abs(np.linalg.det(model.affine)) > 0
    low, high = model.intensity_range
    assert low < high
    # It was trained: the head starts at zero, and the statistics at those of nothing.
    assert np.abs(model.variables["params"]["logits"]["kernel"]).max() > 0
    assert float(model.variables["statistics"]["std"]) != 1
    grey = jnp.full(model.image_shape, (low + high) / 2, jnp.float32)
    logits = jax.jit(model.module.apply)(model.variables, grey)
    assert logits.shape == (model.module.num_classes,)
    assert bool(jnp.isfinite(logits).all())
