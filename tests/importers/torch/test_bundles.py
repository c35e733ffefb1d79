"""MONAI bundles: their own network and weights, and nothing that their configuration evaluates."""

import json
from pathlib import Path

import pytest

from featvis_jax.importers.onnx import onnx_network

torch = pytest.importorskip("torch")
nets = pytest.importorskip("monai.networks.nets")
bundles = pytest.importorskip("featvis_jax.importers.torch.bundles")
worker = pytest.importorskip("featvis_jax.importers.torch.worker")

DEFINITION = {
    "_target_": "BasicUNet",
    "spatial_dims": "@rank",
    "in_channels": 1,
    "out_channels": "$@classes#number",
    "features": [2, 2, 4, 4, 4, 2],
}
METADATA = {
    "network_data_format": {"inputs": {"image": {"num_channels": 1, "spatial_shape": [32, 48]}}}
}


def module():
    torch.manual_seed(0)
    return nets.BasicUNet(
        spatial_dims=2, in_channels=1, out_channels=3, features=(2, 2, 4, 4, 4, 2)
    )


def bundle(directory, definition=DEFINITION, *, weights=None, metadata=METADATA, **others):
    for part in ("configs", "models"):
        (directory / part).mkdir(exist_ok=True)
    config = {"rank": 2, "classes": {"number": 3}, "network_def": definition, **others}
    (directory / "configs" / "inference.json").write_text(json.dumps(config))
    (directory / "configs" / "metadata.json").write_text(json.dumps(metadata))
    state = module().state_dict() if weights is None else weights
    torch.save(state, directory / "models" / "model.pt")
    return directory


def test_a_bundle_is_its_network_with_its_weights(tmp_path, cache, compare):
    path = worker.bundle(str(bundle(tmp_path)), None, str(cache))["network"]
    network = onnx_network(path)
    assert network.image_shape == (32, 48, 1)
    compare(network, module())


def test_the_shape_of_its_images_is_asked_for_where_the_metadata_leave_it_open(tmp_path, cache):
    image = {"num_channels": 1, "spatial_shape": ["16*n", "16*n"]}
    opened = {"network_data_format": {"inputs": {"image": image}}}
    directory = str(bundle(tmp_path, metadata=opened))
    with pytest.raises(ValueError, match=r"does not tell the shape of its images.*--input_shape"):
        worker.bundle(directory, None, str(cache))
    found, shape = bundles.network(Path(directory))
    assert shape is None
    assert isinstance(found, nets.BasicUNet)


def test_yaml_full_paths_nested_modules_and_weights_below_a_key(tmp_path):
    yaml = pytest.importorskip("yaml")
    directory = bundle(tmp_path)
    (directory / "configs" / "inference.json").unlink()
    definition = {
        "_target_": "monai.networks.nets.basic_unet.BasicUNet",
        "_desc_": "for slices",
        **{key: value for key, value in DEFINITION.items() if key != "_target_"},
        "act": ["LeakyReLU", {"negative_slope": "@slopes::0"}],
    }
    config = {"rank": 2, "classes": {"number": 3}, "slopes": [0.2], "network_def": definition}
    (directory / "configs" / "inference.yaml").write_text(yaml.safe_dump(config))
    torch.save({"epoch": 1, "model": module().state_dict()}, directory / "models" / "model.pt")
    found, _ = bundles.network(directory)
    slopes = {part.negative_slope for part in found.modules() if hasattr(part, "negative_slope")}
    assert slopes == {0.2}


EVIDENCE = "$__import__('pathlib').Path('{}').touch()"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"out_channels": EVIDENCE}, "evaluates"),
        ({"out_channels": "@evil"}, "evaluates"),
        ({"out_channels": "%other.json#key"}, "evaluates"),
        ({"out_channels": "@absent"}, "refers to 'absent', which is not there"),
        ({"out_channels": "@circle"}, "go in circles"),
        ({"_target_": "os.system"}, r"calls os\.system, which is no module of MONAI or PyTorch"),
        ({"_target_": "torch.nn.Module.load"}, "is no module of MONAI or PyTorch"),
        ({"_target_": "monai.networks.utils.torch"}, "is no module of MONAI or PyTorch"),
        ({"_target_": "torch.hub.load"}, "is no module of MONAI or PyTorch"),
        ({"_target_": "scripts.network.Net"}, "is no module of MONAI or PyTorch"),
        ({"_mode_": "debug"}, "has _mode_"),
        ({"features": 5}, "its BasicUNet cannot be made"),
    ],
)
def test_a_configuration_that_asks_for_more_is_told_with_the_file_that_runs_it(
    tmp_path, changes, told
):
    evidence = tmp_path / "evidence"
    changes = {key: EVIDENCE.format(evidence) if v == EVIDENCE else v for key, v in changes.items()}
    evil = EVIDENCE.format(evidence)
    directory = bundle(tmp_path, {**DEFINITION, **changes}, evil=evil, circle="@circle")
    with pytest.raises(ValueError, match=told) as refused:
        bundles.network(directory)
    code = str(refused.value).partition("\n\n")[2]
    assert "parser.get_parsed_content('network_def')" in code
    assert f"read_config({str(directory / 'configs' / 'inference.json')!r})" in code
    assert not evidence.exists()


def test_other_weights_and_missing_files_are_told(tmp_path):
    directory = bundle(tmp_path, weights={"stem.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"model\.pt does not fit the network of inference\.json"):
        bundles.network(directory)
    (directory / "models" / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"a MONAI bundle without models/model\.pt"):
        bundles.network(directory)
    (directory / "models" / "model.ts").touch()
    with pytest.raises(FileNotFoundError, match=r"give .*models/model\.ts, which has both"):
        bundles.network(directory)
    bundle(tmp_path)
    (directory / "configs" / "inference.json").write_text("{")
    with pytest.raises(ValueError, match=r"inference\.json cannot be read"):
        bundles.network(directory)
    (directory / "configs" / "inference.json").write_text("{}")
    with pytest.raises(ValueError, match="it has no network_def"):
        bundles.network(directory)
