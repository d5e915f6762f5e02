"""Hundreds of broken films: each is read or excluded with a reason, and none harms the others."""

import collections
import io
import re
import warnings
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLSLossless

from knee_jax.errors import UnusableKnee
from knee_jax.ingest import dicom, pool
from knee_jax.ingest.film import Roi
from knee_jax.ingest.inventory import SIDES, Reading
from knee_jax.ingest.report import Exclusion, Note
from knee_jax.ingest.study import FilmFile, FilmJob
from knee_jax.phantom.dicom import SYNTAXES, Header, write_film
from knee_jax.targets.grades import MISSING
from tests.ingest.conftest import on_film, write_points

SHAPE, SPACING = (200, 320), 1.0
PYTHON_WORDS = re.compile(r"\b0x[0-9a-f]{4}|object at|<\w+\.|\w(Error|Exception)\b|Traceback")
"""Words in a detail that are none of a user's."""
READINGS = dict.fromkeys(SIDES, Reading(np.full(7, MISSING, np.int8)))
TAGS = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Modality",
    "ImagerPixelSpacing",
    "PixelData",
)
REASONS = {
    "unreadable",
    "empty_file",
    "truncated_file",
    "not_dicom",
    "wrong_modality",
    "colour_image",
    "multi_frame",
    "unknown_polarity",
    "empty_image",
    "corrupt_header",
    "no_spacing",
    "bad_spacing",
    "too_large",
    "no_decoder",
    "stream_contradicts",
    "truncated_pixels",
    "corrupt_pixels",
    "flat_image",
    "subject_contradicts",
    # What the others do not let through on its own, the pool does.
    "timed_out",
    "crashed_reader",
    "out_of_memory",
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """One film in every transfer syntax, as bytes."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    picture = (np.add.outer(np.arange(SHAPE[0]), np.arange(SHAPE[1])) % 97 / 97).astype(np.float32)
    picture += 0.05 * rng.random(SHAPE, np.float32)
    films = []
    for syntax in SYNTAXES:
        header = Header("9000001", "0123", "20040101", "Maker", SPACING, 12, False, syntax)
        write_film(folder / "001", picture, header)
        films.append((folder / "001").read_bytes())
    for syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        film = pydicom.dcmread(io.BytesIO(films[0]))
        big = syntax == ExplicitVRBigEndian
        if big:
            film.PixelData = film.pixel_array.byteswap().tobytes()
        film.file_meta.TransferSyntaxUID = syntax
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, film, implicit_vr=False, little_endian=not big)
        films.append(buffer.getvalue())
    return films


def start_of_pixels(data):
    found = max(data.rfind(b"\xe0\x7f\x10\x00"), data.rfind(b"\x7f\xe0\x00\x10"))
    return found if found > 0 else len(data)


def flip(data, rng, low, high):
    """Puts other bytes for a few."""
    found = bytearray(data)
    for place in rng.integers(low, max(high, low + 1), rng.integers(1, 20)):
        found[place % len(found)] = rng.integers(256)
    return bytes(found)


def with_tags(data, change):
    """The film with tags set to values that `change` gives by name, or without those of None."""
    film = pydicom.dcmread(io.BytesIO(data))
    for name, value in change.items():
        if value is None:
            film.pop(name, None)
        else:
            setattr(film, name, value)
            if name == "PixelPaddingValue":
                film[name].VR = "US"
    buffer = io.BytesIO()
    syntax = film.file_meta.TransferSyntaxUID
    implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
    pydicom.dcmwrite(buffer, film, implicit_vr=implicit, little_endian=little)
    return buffer.getvalue()


def change_of_tags(rng):
    kind = rng.integers(9)
    if kind == 6:
        values = {
            "PixelPaddingValue": [4095, 0, [0, 5]],
            "PatientOrientation": [["H", "L"], ["A", "F"], "R"],
            "PresentationLUTShape": ["INVERSE", "IDENTITY", ""],
            "VOILUTFunction": ["SIGMOID", "LINEAR"],
        }
        name = str(rng.choice(list(values)))
        return {name: values[name][rng.integers(len(values[name]))]}
    if kind == 7:
        names = ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing")
        sizes = ([0, 0], [1.0, 1.0], [0.15], [], [9, 9, 9], [-1, 0.1])
        return {name: sizes[rng.integers(len(sizes))] for name in names}
    if kind == 8:
        bits, more = int(rng.integers(1, 18)), int(rng.integers(3))
        return {"BitsStored": bits, "HighBit": bits - 1 + more}
    if kind == 0:
        return dict.fromkeys(rng.choice(TAGS, rng.integers(1, 4), replace=False))
    if kind == 1:
        return {str(rng.choice(["Rows", "Columns"])): int(rng.choice([0, 1, 60_000, 65_535]))}
    if kind == 2:
        return {"Rows": 60_000, "Columns": 60_000}
    if kind == 3:
        names = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")
        return {str(rng.choice(names)): int(rng.choice([0, 1, 3, 8, 12, 17, 32, 64, 65_535]))}
    if kind == 4:
        values = [float("nan"), float("inf"), -1.0, 0.0, 1e300, 1e-300]
        return {
            "RescaleSlope": str(rng.choice(values)),
            "RescaleIntercept": str(rng.choice(values)),
        }
    lut = pydicom.Dataset()
    lut.LUTDescriptor = [int(x) for x in rng.choice([0, 1, 8, 16, 65_535], 3)]
    lut.LUTData = bytes(rng.integers(0, 256, 2 * rng.integers(1, 9), np.uint8))
    lut["LUTData"].VR = "OW"
    return {str(rng.choice(["VOILUTSequence", "ModalityLUTSequence"])): [lut]}


def other_vr(data, rng):
    """Puts another VR, or none, where one stands in the header."""
    places = [p for vr in (b"US", b"DS", b"CS", b"OW", b"UI", b"LO") for p in occurrences(data, vr)]
    if not places:
        return flip(data, rng, 132, len(data))
    place = int(rng.choice(places))
    vr = rng.choice([b"SQ", b"UN", b"OB", b"IS", b"FD", b"AT", b"??", b"\0\0", b"UT"])
    return data[:place] + bytes(vr).ljust(2, b"\0") + data[place + 2 :]


def occurrences(data, part):
    found, place = [], data.find(part, 132)
    while 0 <= place < start_of_pixels(data) + 8:
        found.append(place)
        place = data.find(part, place + 1)
    return found


def swap(data, rng):
    """Two stretches of the file change places."""
    a, b, c = sorted(int(x) for x in rng.integers(0, len(data), 3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def bomb(data, rng):
    """Zeros without end, deflated behind a sound header: 1 MB on the disk, 1 GB in memory."""
    film = pydicom.dcmread(io.BytesIO(data))
    film.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    meta = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(meta, film.file_meta)
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    # After a full flush a block stands for itself, and so may be repeated.
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return bytes(128) + b"DICM" + meta.getvalue() + 64 * block + packer.flush()


def mutate(data, rng):
    kind = rng.choice(8, p=[0.2, 0.2, 0.15, 0.25, 0.1, 0.06, 0.03, 0.01])
    begin = start_of_pixels(data)
    if kind == 0:
        return flip(data, rng, 0, begin)
    if kind == 1:
        return flip(data, rng, begin, len(data))
    if kind == 2:
        return data[: rng.integers(len(data))]
    if kind == 3:
        return with_tags(data, change_of_tags(rng))
    if kind == 4:
        return other_vr(data, rng)
    if kind == 5:
        return swap(data, rng)
    if kind == 6:
        return bytes(rng.integers(0, 256, 2000, np.uint8))
    return bomb(data, rng)


def fuzz(root, originals, count):
    """Read broken films through the pool; return the results of each."""
    jobs = []
    for number in range(count + len(originals)):
        # The first ones stay whole.
        rng = np.random.default_rng([7, number])
        data = originals[number % len(originals)]
        if number >= len(originals):
            with warnings.catch_warnings():
                # pydicom does not like to write what it is asked for here.
                warnings.simplefilter("ignore")
                data = mutate(data, rng)
        path = root / f"{number:04d}"
        path.write_bytes(data)
        size = SPACING * SHAPE[1]
        write_points(path.with_name(path.name + ".pts"), on_film((0.73 * size, 100.0), "L"))
        mirrored = on_film((0.27 * size, 100.0), "R") * (-1, 1) + (size, 0)
        write_points(path.with_name(path.name + "_f.pts"), mirrored)
        jobs.append(
            FilmJob(
                root,
                FilmFile("9000001", 0, "c", "", path.name, path.name, READINGS),
                Roi(pixels=64),
            )
        )
    found = []
    for job, knees in zip(jobs, pool.run_in_order(jobs, 2, seconds=20)):
        knees = (
            job.exclude(knees.reason, knees.detail) if isinstance(knees, pool.Failure) else knees
        )
        found.append(knees)
    return found


def check(found, num_whole):
    reasons = collections.Counter()
    for number, knees in enumerate(found):
        notes = [knee for knee in knees if isinstance(knee, Note)]
        knees = [knee for knee in knees if not isinstance(knee, Note)]
        assert len(knees) == 2
        for note in notes:
            reasons[note.note] += number >= num_whole
        for knee in knees:
            if isinstance(knee, Exclusion):
                assert number >= num_whole, knee
                # Landmarks do not fit a film whose spacing was changed.
                assert knee.reason in REASONS or knee.reason.startswith("landmarks_"), knee
                assert "\n" not in knee.detail
                assert not PYTHON_WORDS.search(knee.detail), knee
                reasons[knee.reason] += 1
            else:
                assert knee["image"].shape == (64, 64)
                reasons["kept"] += 1
    return reasons


def test_some(originals, tmp_path):
    reasons = check(fuzz(tmp_path, originals, 200), len(originals))
    assert len(reasons) > 8
    assert reasons["kept"] > 50


@pytest.mark.long
def test_two_thousand(originals, tmp_path):
    reasons = check(fuzz(tmp_path, originals, 2000), len(originals))
    print(dict(reasons))
    assert len(reasons) > 20
    assert not reasons["timed_out"]
    assert not reasons["crashed_reader"]


def test_a_film_that_killed_a_decoder(originals, tmp_path):
    """gdcm ended its process where a JPEG-LS header claimed more columns than it found."""
    film = originals[SYNTAXES.index(JPEGLSLossless)]
    (tmp_path / "001").write_bytes(with_tags(film, {"Columns": 65_535}))
    with pytest.raises(UnusableKnee, match="320x200 pixels, the header says 65535x200"):
        dicom.read_film(tmp_path / "001")


def test_a_header_that_claims_too_much_is_refused_before_its_pixels(originals, tmp_path):
    (tmp_path / "001").write_bytes(with_tags(originals[0], {"Rows": 60_000, "Columns": 60_000}))
    with pytest.raises(UnusableKnee, match="60000x60000 pixels") as caught:
        dicom.read_film(tmp_path / "001")
    assert caught.value.reason == "too_large"


def test_a_file_that_swells(originals, tmp_path):
    """Within the memory of a worker it is no film."""
    (tmp_path / "001").write_bytes(bomb(originals[0], None))
    job = FilmJob(tmp_path, FilmFile("9000001", 0, "c", "", "001", "001", READINGS), Roi())
    ((first, second),) = pool.run_in_order([job], 1, seconds=60)
    assert first.reason == second.reason == "too_large"
