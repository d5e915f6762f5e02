"""Broken MR series by the hundred: each is read or excluded, and none harms the others."""

import collections
import io
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from knee_jax.ingest import flow, pool
from knee_jax.ingest.report import Exclusion, Note
from knee_jax.ingest.series import Volume
from knee_jax.ingest.volume import Preparation, VolumeFile, VolumeJob, prepare
from knee_jax.phantom import dicom as phantom
from tests.ingest.conftest import dataset, mr_slices
from tests.ingest.test_dicom_fuzz import PYTHON_WORDS, flip, mutate, start_of_pixels, with_tags

SHAPE, SPACING = (12, 16, 8), (0.5, 0.25, 3.0)
PREPARATION = Preparation(SHAPE, border=2)
VOXELS = np.random.default_rng(0).integers(0, 2040, SHAPE, np.uint16)
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
)
EVERY = 10
"""One of so many series stays intact."""
REASONS = {reason for reasons in flow.STAGES.values() for reason in reasons}


@pytest.fixture(scope="module")
def originals():
    """One series in every transfer syntax, as bytes of its files."""
    return [series(syntax, VOXELS) for syntax in SYNTAXES]


def series(syntax, voxels, **tags):
    return [written(each, syntax) for each in mr_slices(voxels, SPACING, **tags)]


def written(film, syntax):
    little = syntax != ExplicitVRBigEndian
    if not little:
        film.PixelData = film.pixel_array.byteswap().tobytes()
    if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        frame = phantom._encode(film.pixel_array, 16, syntax)
        film.PixelData = pydicom.encaps.encapsulate([frame])
        film["PixelData"].VR = "OB"
    film.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    implicit = syntax.is_implicit_VR
    pydicom.dcmwrite(
        buffer, film, implicit_vr=implicit, little_endian=little, enforce_file_format=True
    )
    return buffer.getvalue()


def change_of_geometry(rng):
    """Values of tags that a volume is built from; None removes the tag."""
    position, axes = rng.normal(0, 60, 3), rng.normal(0, 1, 6)
    odd = [0.0, -1.0, 1e-9, 1e9, 1e300, float("nan"), float("inf")]
    choices = {
        "ImagePositionPatient": [
            None,
            numbers(position),
            numbers(position[:2]),
            numbers(rng.choice(odd, 3)),
        ],
        "ImageOrientationPatient": [
            None,
            numbers(axes),
            numbers(rng.choice(odd, 6)),
            numbers(rng.permutation([0, 1, 0, 0, 0, -1])),
            numbers([1, 0, 0, 0, 0, -1]),
            numbers([0, 0.98, 0.199, 0, 0.199, -0.98]),
        ],
        "PixelSpacing": [
            None,
            numbers(rng.uniform(0.1, 2, 2)),
            numbers(rng.uniform(0.1, 2, 1)),
            numbers(rng.choice(odd, 2)),
        ],
        "Rows": [None, 0, 6, 13, 65_535],
        "Columns": [None, 0, 8, 17, 65_535],
        "SeriesInstanceUID": [None, "2.25.3"],
        "SeriesDescription": [None, "SAG_3D_DESS", "SAG_3D_DESS_LEFT"],
        "Modality": [None, "CR"],
        "NumberOfFrames": [0, 2, 65_535],
        "PhotometricInterpretation": [None, "MONOCHROME1", "RGB"],
        "PixelRepresentation": [None, 1],
        "RescaleSlope": [*map(str, odd), "2"],
        "RescaleIntercept": [*map(str, odd), "-500"],
    }
    names = rng.choice(list(choices), rng.integers(1, 3), replace=False)
    return {str(name): choices[name][rng.integers(len(choices[name]))] for name in names}


def numbers(values):
    return [f"{value:.6g}" for value in values]


def some(files, rng):
    return rng.choice(list(files), rng.integers(1, 4), replace=False)


def in_bytes(files, rng):
    for name in some(files, rng):
        files[name] = mutate(files[name], rng)


def in_pixels(files, rng):
    for name in some(files, rng):
        data = files[name]
        files[name] = flip(data, rng, start_of_pixels(data), len(data))


def in_geometry(files, rng):
    """In some slices, or in all alike."""
    change = change_of_geometry(rng)
    for name in files if rng.random() < 0.3 else some(files, rng):
        files[name] = with_tags(files[name], change)


def exchanged(files, rng):
    """Exchange places or pixels of two slices; return the expected volume."""
    names = list(files)
    first, second = rng.choice(len(names), 2, replace=False)
    a, b = names[first], names[second]
    tag = str(rng.choice(["ImagePositionPatient", "PixelData"]))
    values = [pydicom.dcmread(io.BytesIO(files[name]))[tag].value for name in (a, b)]
    files[a] = with_tags(files[a], {tag: values[1]})
    files[b] = with_tags(files[b], {tag: values[0]})
    voxels = VOXELS.copy()
    voxels[..., [first, second]] = VOXELS[..., [second, first]]
    return voxels


def removed(files, rng):
    for name in rng.choice(list(files), rng.integers(1, len(files) + 1), replace=False):
        del files[name]


def added(files, rng):
    """Another file among them, or in the place of one."""
    others = [*STRANGE, *files.values()]
    data = others[rng.integers(len(others))]
    name = str(rng.choice(["099", *files]))
    # A slice in its own place would change nothing.
    files["099" if files.get(name) == data else name] = data


def mixed(files, rng):
    """One slice is that of the same place in another series."""
    number = rng.integers(len(files))
    files[list(files)[number]] = OTHER[number]


def with_gap(files, rng):
    """As many slices as are wanted, of a series that had one more."""
    lost = rng.integers(1, len(files))
    slices = [data for number, data in enumerate(LONGER) if number != lost]
    files.update(zip(list(files), slices))


def harmless(files, rng):
    """Change names and numbers, on which the order of slices does not depend."""
    names = rng.permutation(list(files))
    slices = list(files.values())
    files.clear()
    for name, data in zip(names, slices):
        files[str(name)] = with_tags(data, {"InstanceNumber": int(rng.integers(1000))})
    files[".DS_Store"] = b"nobody's slice"
    return VOXELS


OTHER = series(ExplicitVRLittleEndian, VOXELS, SeriesInstanceUID="2.25.2")
LONGER = series(ExplicitVRLittleEndian, np.dstack([VOXELS, VOXELS[..., :1]]))
STRANGE = [b"", b"a note\n" * 99, written(dataset(VOXELS[..., 0]), ExplicitVRLittleEndian), *OTHER]
KINDS = {
    in_bytes: 0.3,
    in_pixels: 0.1,
    in_geometry: 0.3,
    exchanged: 0.05,
    removed: 0.06,
    added: 0.08,
    mixed: 0.02,
    with_gap: 0.04,
    harmless: 0.05,
}
LOST = (removed, added, mixed, with_gap)
"""Of these no volume is left."""


def fuzz(root, originals, count):
    """Reads broken series as a builder does.

    Returns:
        What was done to each, the voxels that are to be found where that is known, and its knee.
    """
    done, jobs = [], []
    for number in range(count):
        rng = np.random.default_rng([11, number])
        files = {f"{n:03d}": data for n, data in enumerate(originals[number % len(originals)])}
        kind, voxels = None, VOXELS
        if number % EVERY:
            kind = rng.choice(list(KINDS), p=list(KINDS.values()))
            with warnings.catch_warnings():
                # pydicom does not like to write what it is asked for here.
                warnings.simplefilter("ignore")
                voxels = kind(files, rng)
        folder = root / f"{number:04d}"
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        done.append((kind, voxels))
        file = VolumeFile(str(number), "R", 0, "OAI", "", folder.name, -1, 2)
        jobs.append(VolumeJob(root, file, PREPARATION))
    found = []
    for job, what, knees in zip(jobs, done, pool.run_in_order(jobs, 2, seconds=20)):
        knees = (
            job.exclude(knees.reason, knees.detail) if isinstance(knees, pool.Failure) else knees
        )
        (knee,) = (each for each in knees if not isinstance(each, Note))
        found.append((*what, knee))
    return found


def check(found):
    reasons = collections.Counter()
    for number, (kind, voxels, knee) in enumerate(found):
        if isinstance(knee, Exclusion):
            assert voxels is None, knee
            assert knee.subject == str(number)
            assert knee.reason in REASONS, knee
            assert knee.detail
            assert "\n" not in knee.detail
            assert not PYTHON_WORDS.search(knee.detail), knee
            reasons[knee.reason] += 1
        else:
            assert kind not in LOST, number
            assert knee["subject"] == str(number)
            assert knee["volume"].shape == PREPARATION.result_shape
            assert knee["volume"].dtype == np.uint8
            assert knee["spacing_mm"].shape == (3,)
            assert np.isfinite(knee["spacing_mm"]).all()
            if voxels is not None:
                # Slices lie from the patient's right to the left.
                expected = prepare(Volume(voxels[..., ::-1], SPACING, "R"), PREPARATION)
                np.testing.assert_array_equal(knee["volume"], expected)
                assert knee["spacing_mm"] == pytest.approx(np.multiply(SPACING, 2))
            reasons["kept"] += 1
    return reasons


def test_some(originals, tmp_path):
    reasons = check(fuzz(tmp_path, originals, 200))
    assert len(reasons) > 20
    assert reasons["kept"] > 40


@pytest.mark.long
def test_thousands(originals, tmp_path):
    reasons = check(fuzz(tmp_path, originals, 3000))
    assert len(reasons) > 25
    assert not reasons["timed_out"]
    assert not reasons["crashed_reader"]
