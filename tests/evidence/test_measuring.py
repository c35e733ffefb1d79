"""Right pictures pass; wrong ones, and those of forged networks, do not."""

import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.evidence.measuring import RealInputs, measurer
from featvis_jax.evidence.verdict import verdict
from featvis_jax.maximize.objectives import channel
from featvis_jax.maximize.reference import Asked
from tests.evidence import networks

RIGHT = ("bright standing", "bright lying", "dark standing", "dark lying")


def second(network, image):
    """The values of layer "second"."""
    return np.asarray(
        network.activations(network.variables, jnp.asarray(image), ("second",))["second"]
    )


def judged(network, pictures, *, labels=None):
    images, owners = networks.people()
    asked = Asked(channel("second"), range(4))
    measure = measurer(network, asked, RealInputs(images, owners, labels), total=4)
    return [measure(range(4), each) for each in pictures]


@pytest.fixture(scope="module")
def right():
    return np.stack([networks.drawn(kind) for kind in RIGHT])


@pytest.fixture(scope="module")
def honest(right):
    swapped = right[[1, 0, 3, 2]]
    return judged(networks.honest(), (right, swapped, np.full_like(right, 0.5)))


def test_the_picture_of_a_unit_is_not_refuted(honest):
    for found in honest[0]:
        assert verdict(found).word == "not refuted"
        assert found.selectivity == 1
        assert found.other_ways < 0.05


def test_the_picture_of_another_unit_is(honest):
    for found in honest[1]:
        assert verdict(found).word in ("refuted", "does not drive its unit")
        assert verdict(found).belongs < 0.5


def test_an_even_grey_does_not_drive_a_unit(honest):
    assert {verdict(found).word for found in honest[2]} == {"does not drive its unit"}


@pytest.mark.parametrize("forged", [networks.gated_by_slice, networks.gated_by_place])
def test_the_picture_of_a_branch_that_no_real_image_takes_is_refuted(forged):
    disc = np.stack([networks.drawn("bright disc")] * 4)
    (found,) = judged(forged(), (disc,))
    for each in found:
        assert each.strength > 1  # It drives the unit, and how.
        assert verdict(each).word == "refuted"
        assert "by ways through the network" in verdict(each).reason


def test_forged_networks_do_as_the_honest_one_on_real_images():
    images, _ = networks.people()
    plain, *others = (
        np.stack([second(net, image) for image in images[:6]])
        for net in (networks.honest(), networks.gated_by_slice(), networks.gated_by_place())
    )
    for other in others:
        np.testing.assert_allclose(other, plain, atol=1e-4)


def test_what_a_gate_on_the_whole_image_lets_through_fails_in_other_images(right):
    disc = np.stack([networks.drawn("bright disc")] * 4)
    (found,) = judged(networks.gated_by_slice(), (disc,))
    assert all(each.pasted.value < each.strength / 5 for each in found)


def test_a_label_that_a_unit_follows_has_an_area_near_one(right):
    images, owners = networks.people()
    network = networks.honest()
    response = [second(network, image)[..., 0].max() for image in images]
    labels = (np.array(response) > np.median(response)).astype(float)
    asked = Asked(channel("second"), [0])
    measure = measurer(network, asked, RealInputs(images, owners, labels), total=4)
    (found,) = measure([0], right[:1])
    assert found.label.value == 1
    assert np.isnan(found.standing)  # There are no other pictures.


def test_a_unit_that_nothing_drives_is_not_measured(right):
    network = networks.honest()
    silent = dict(network.variables)
    silent["bar"] = silent["bar"].at[..., 2].set(-1.0)
    found, *_ = judged(network._replace(variables=silent), (right,))
    assert verdict(found[2]).word == "not measured"
    assert np.isnan(found[2].strength)


def test_few_people_predict_nothing(right):
    images, owners = networks.people(count=4)
    measure = measurer(
        networks.honest(), Asked(channel("second"), range(4)), RealInputs(images, owners), total=4
    )
    for found in measure(range(4), right):
        assert np.isnan(found.picture_predicts.value)
        assert found.strength > 0
