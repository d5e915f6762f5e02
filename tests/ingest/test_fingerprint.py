import cv2
import numpy as np
import pytest

from knee_jax.ingest.fingerprint import BITS, NEAR, checksum, perceptual_hash


def distance(one, other):
    first, second = (
        np.unpackbits(np.frombuffer(bytes.fromhex(perceptual_hash(each)), np.uint8))
        for each in (one, other)
    )
    return int((first != second).sum())


@pytest.fixture(scope="module")
def films():
    """Pictures with structure at several scales, as trabecular bone has."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(12):
        scales = [
            cv2.resize(rng.normal(size=(n, n)), (224, 224), interpolation=cv2.INTER_CUBIC)
            for n in (6, 20, 60)
        ]
        total = sum(scales)
        pictures.append(np.uint8(255 * (total - total.min()) / np.ptp(total)))
    return pictures


VERSIONS = {
    "half the resolution": lambda x: cv2.resize(
        cv2.resize(x, (112, 112), interpolation=cv2.INTER_AREA), (224, 224)
    ),
    "another gamma": lambda x: np.uint8(255 * (x / 255) ** 0.7),
    "JPEG": lambda x: cv2.imdecode(cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0),
    "brighter": lambda x: np.uint8(np.clip(x * 0.8 + 30.0, 0, 255)),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_of_a_picture_are_near_and_others_far(films, version):
    for number, film in enumerate(films):
        changed = VERSIONS[version](film)
        assert checksum(changed) != checksum(film)
        assert distance(changed, film) <= NEAR
        assert distance(changed, films[number - 1]) > 2 * NEAR


def test_a_hash_is_the_same_on_every_machine():
    """Bits of raw PCG64, which NumPy keeps; a hash of a set must be valid in years."""
    x = np.uint8((np.add.outer(np.arange(96) ** 2, 7 * np.arange(96)) // 5) % 256)
    assert len(perceptual_hash(x)) == BITS // 4
    assert perceptual_hash(x)[:32] == EXPECTED
    assert checksum(x) == CHECKSUM


EXPECTED = "ee68fef70eba362fa36e38c470f6ddfe"
CHECKSUM = "d3deb5f13f46b977"


def test_what_cannot_be_told_apart_has_no_hash():
    assert perceptual_hash(np.full((224, 224), 7, np.uint8)) == ""
    assert perceptual_hash(np.eye(32, dtype=np.uint8)) == ""
    assert perceptual_hash(np.ones((80, 80, 40), np.uint8)) == ""


def test_a_checksum_is_of_shape_type_and_values():
    x = np.arange(6, dtype=np.uint8)
    assert len({checksum(a) for a in (x, x.reshape(2, 3), x.astype(np.int8), x + 1)}) == 4
    assert checksum(x[::-1]) == checksum(x[::-1].copy())


@pytest.mark.real
@pytest.mark.long
def test_no_two_real_knees_are_taken_for_one(real_data):
    files = sorted((real_data / "kneekl224").rglob("*.png"))
    assert len(files) > 6000
    hashes = "".join(perceptual_hash(cv2.imread(str(file), 0)) for file in files)
    bits = np.frombuffer(bytes.fromhex(hashes), np.uint64).reshape(len(files), -1)
    nearest = [np.bitwise_count(bits[i] ^ bits[:i]).sum(axis=1).min() for i in range(1, len(bits))]
    assert min(nearest) > 1.5 * NEAR
