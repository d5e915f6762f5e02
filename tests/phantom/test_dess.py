import numpy as np
import pytest

from knee_jax.ingest.volume import quantise
from knee_jax.phantom import dess, mri
from knee_jax.phantom.anatomy import make_knee

SHAPE = (96, 96, 40)
QUIET = dess.Scanner(gain=1.0, noise=0.0, shading=0.0, blur_mm=0.0)
HEALTHY = dess.Findings(lesion_mm=0.0, medial=True, effusion=0.1)


def knee(lost=(0.0, 0.0), spurs=(0, 0, 0, 0), seed=0):
    return make_knee(np.random.default_rng(seed), np.array(spurs, float), np.array(lost), 77.0, 0.0)


def draw(bones, findings=HEALTHY, scanner=QUIET, shape=SHAPE, seed=0):
    return dess.render(bones, findings, scanner, shape, np.random.default_rng(seed))


def box(volume, x, y, z):
    """The part of a volume between limits in mm: (x, y, z) from its middle."""
    corners = zip((x, z, y), (dess.FIELD_MM[2], *dess.FIELD_MM[:2]), volume.shape)
    return volume[
        tuple(slice(*np.rint((np.array(c) / f + 0.5) * n).astype(int)) for c, f, n in corners)
    ]


LATERAL, MEDIAL = (-28, -8), (8, 28)


def cartilage(volume, side):
    """Voxels as bright as cartilage between the condyle and the plateau of one side."""
    joint = box(volume, side, (-14, 18), (-16, 8))
    return int(((joint > 700) & (joint < 1150)).sum())


def test_a_function_of_its_arguments():
    first = draw(knee())
    assert first.shape == (40, 96, 96)
    assert first.dtype == np.uint16
    np.testing.assert_array_equal(first, draw(knee()))
    assert (first != draw(knee(), seed=1)).any()


@pytest.mark.parametrize(("side", "other", "index"), [(LATERAL, MEDIAL, 0), (MEDIAL, LATERAL, 1)])
def test_cartilage_thins_where_the_space_is_lost(side, other, index):
    found = []
    for lost in (0.0, 0.4, 0.8):
        both = [0.0, 0.0]
        both[index] = lost
        found.append(draw(knee(both)))
    here = [cartilage(volume, side) for volume in found]
    assert here[0] > 1.15 * here[1] > 1.3 * here[2]
    assert cartilage(found[2], other) > 0.8 * cartilage(found[0], other)


@pytest.mark.parametrize(
    ("medial", "side", "other"), [(True, MEDIAL, LATERAL), (False, LATERAL, MEDIAL)]
)
def test_a_lesion_is_bright_in_the_tibia_of_its_side(medial, side, other):
    plain = draw(knee()).astype(int)
    sizes = []
    for radius in (3.0, 6.0, 9.0):
        shown = draw(knee(), dess.Findings(radius, medial, HEALTHY.effusion))
        changed = np.abs(shown - plain) > 200
        assert changed.sum() == box(changed, side, (-25, 25), (-5, 40)).sum()
        assert not box(changed, other, (-70, 70), (-70, 70)).any()
        sizes.append((shown - plain > 415).sum() * np.prod(np.divide(dess.FIELD_MM, SHAPE)))
    assert sizes[0] < sizes[1] < sizes[2]
    # About a ball, a part of which may lie in the cortex or in the joint.
    assert 0.6 < sizes[2] / (4 / 3 * np.pi * 9**3) < 1.2


def test_an_effusion_fills_the_pouch():
    bright = [
        (
            box(draw(knee(), dess.Findings(0, True, fill)), (-30, 30), (-50, -10), (-70, -15))
            > 1300
        ).sum()
        for fill in (0.1, 0.5, 0.9)
    ]
    assert bright[0] < bright[1] < bright[2]


def test_spurs_are_those_of_the_film():
    """Bone where the film's outline has it, and nowhere else: seen in the plane of the film."""
    plain, ill = (draw(knee(spurs=s)).astype(int) for s in ((0, 0, 0, 0), (0, 0, 0, 7)))
    changed = np.abs(ill - plain) > 60
    assert changed.any()
    assert changed.sum() == box(changed, (25, 56), (-35, 35), (-20, 25)).sum()


def test_lateral_comes_first():
    """The head of the fibula, seen as its dark edge behind the tibia, is in the first slices."""
    volume = draw(knee())
    behind = [(box(volume, x, (8, 30), (25, 65)) < 120).mean() for x in ((-48, -25), (25, 48))]
    assert behind[0] > 3 * behind[1]


@pytest.mark.parametrize("site", "ABCDE")
def test_every_scanner_is_within_the_published_range(site):
    fluid = dess.Findings(8.0, True, 1.0)
    volume = draw(knee((0.0, 0.9)), fluid, mri._SCANNERS[site])
    grey = quantise(volume, "shift")
    assert 120 < grey.max() < 255


def test_noise_is_the_scanners():
    plain, noisy = (
        draw(knee(), scanner=dess.Scanner(1.0, noise, 0.0, 0.0)).astype(float) for noise in (0, 40)
    )
    inside = plain > 300
    assert np.std((noisy - plain)[inside]) == pytest.approx(40, rel=0.03)


def test_the_field_of_view_does_not_change_with_the_number_of_voxels():
    fine, coarse = draw(knee(), shape=(192, 192, 80)), draw(knee(), shape=(96, 96, 40))
    means = fine.reshape(40, 2, 96, 2, 96, 2).mean(axis=(1, 3, 5))
    assert np.corrcoef(means.ravel(), coarse.ravel())[0, 1] > 0.98
