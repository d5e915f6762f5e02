"""`data/views.py`: predictions averaged over mirrored, magnified and shifted images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knee_jax import targets
from knee_jax.config.schema import Evaluation
from knee_jax.data import views

SIZE = 32
PAIR = targets.get_all(("jsl", "jsm"))


def blob(x, y):
    """A small bright spot, centred at x and y in [0, 1]."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    spot = np.exp(-((rows - y * SIZE) ** 2 + (columns - x * SIZE) ** 2) / 4)
    return jnp.asarray(spot[None, :, :, None], jnp.float32)


def halves(images):
    """The lateral (left) half's sum as jsl, the medial half's as jsm."""
    left = images[:, :, : SIZE // 2].sum((1, 2))
    right = images[:, :, SIZE // 2 :].sum((1, 2))
    return {"jsl": left, "jsm": right}


def test_by_default_the_image_alone_is_predicted():
    image = blob(0.3, 0.5)
    seen = []
    views.averaged(lambda images: seen.append(images) or halves(images), image, Evaluation(), PAIR)
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], image)


def test_the_outputs_of_a_mirrored_image_are_exchanged():
    """A spot at the left is lateral, in the image as in its mirror image."""
    image = blob(0.2, 0.5)
    plain = views.averaged(halves, image, Evaluation(), PAIR)
    mirrored = views.averaged(halves, image, Evaluation(mirror=True), PAIR)
    for name in plain:
        np.testing.assert_allclose(mirrored[name], plain[name], rtol=1e-5, atol=1e-6)
    (unpaired,) = targets.get_all(("kl",))
    halved = views.averaged(
        lambda images: {"kl": halves(images)["jsl"]}, image, Evaluation(mirror=True), [unpaired]
    )
    np.testing.assert_allclose(halved["kl"], (plain["jsl"] + plain["jsm"]) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"shift": 0.25}, 5),
        ({"scales": (1.0, 1.5)}, 2),
        ({"shift": 0.25, "scales": (0.8, 1.0, 1.2), "mirror": True}, 30),
    ],
)
def test_every_view_counts_once(changes, number):
    def count(images):
        return {"kl": jnp.full((len(images), 1), len(images), jnp.float32)}

    images = jnp.concatenate([blob(0.5, 0.5), blob(0.4, 0.4)])
    found = jax.jit(
        lambda images: views.averaged(
            count, images, Evaluation(**changes), targets.get_all(("kl",))
        )
    )(images)
    assert found["kl"].shape == (2, 1)
    assert float(found["kl"][0, 0]) == pytest.approx(2 * number)


def test_shifts_go_to_all_sides_and_scales_magnify():
    found = views._moved(blob(0.5, 0.5), Evaluation(shift=0.25, scales=(1.0, 1.5)))
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    centres, widths = [], []
    for view in found:
        weights = np.asarray(view)[0, :, :, 0]
        centre = [(weights * axis).sum() / weights.sum() / SIZE for axis in (columns, rows)]
        centres.append([round(float(place), 2) for place in centre])
        widths.append(float(np.sqrt(weights.sum())))
    around = [[0.5, 0.5], [0.75, 0.5], [0.25, 0.5], [0.5, 0.75], [0.5, 0.25]]
    assert centres == around * 2
    assert widths[5] / widths[0] == pytest.approx(1.5, rel=0.02)
