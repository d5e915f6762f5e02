import jax.numpy as jnp
import numpy as np
import pytest

from knee_jax.errors import UserError
from knee_jax.models.patches import paste_patches, side_patches


@pytest.mark.parametrize("side", [299, 300, 310, 192])
def test_patches_lie_where_the_published_code_cuts_them(side):
    image = np.random.default_rng(0).random((2, side, side, 1))
    lateral, medial = side_patches(image)
    top = side // 3
    np.testing.assert_array_equal(lateral, image[:, top : top + 128, :128])
    np.testing.assert_array_equal(medial, image[:, top : top + 128, side - 128 :][:, :, ::-1])


def test_a_mirrored_knee_has_its_patches_exchanged():
    image = np.random.default_rng(0).random((1, 299, 299, 3))
    lateral, medial = side_patches(image)
    other_lateral, other_medial = side_patches(image[:, :, ::-1])
    np.testing.assert_array_equal(other_lateral, medial)
    np.testing.assert_array_equal(other_medial, lateral)


@pytest.mark.parametrize("side", [299, 192])
def test_pasting_gives_the_knee_back_under_the_patches(side):
    image = jnp.asarray(np.random.default_rng(0).random((2, side, side, 1)), jnp.float32)
    pasted, count = paste_patches(*side_patches(image), side, side)
    covered = np.asarray(count) > 0
    assert covered[side // 3 : side // 3 + 128, :128].all()
    assert covered.sum() == 128 * min(256, side)
    np.testing.assert_allclose(pasted[:, covered], image[:, covered], rtol=1e-6)
    assert not np.asarray(pasted)[:, ~covered].any()


@pytest.mark.parametrize("shape", [(1, 190, 299, 1), (1, 299, 127, 1), (1, 100, 100, 1)])
def test_a_knee_that_is_too_small_is_refused(shape):
    with pytest.raises(UserError, match=r"do not fit a knee .* config.input.size to 192 or more"):
        side_patches(jnp.zeros(shape))
