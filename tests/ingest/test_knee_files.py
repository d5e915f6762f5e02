"""Any file that a person hands in: read, or refused by name."""

import dataclasses
import os
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from knee_jax.ingest import knee_files
from knee_jax.ingest.knee_files import Knee, KneeFileJob, Reading, Refusal
from knee_jax.ingest.sources import Source, find, unique
from knee_jax.phantom import study
from tests.serve.films import small_film


def knee_like(height=240, width=240, dtype=np.uint8):
    """Bright bones with a dark gap, brighter at the left."""
    rows, columns = np.mgrid[:height, :width]
    bone = np.exp(-(((columns - width / 2) / (0.3 * width)) ** 4))
    gap = np.abs(rows - height / 2) < 0.03 * height
    picture = (bone * ~gap) * (0.9 - 0.3 * columns / width)
    return np.rint(picture * np.iinfo(dtype).max).astype(dtype)


def read(path, **changes):
    reading = Reading(pixels=128, **changes)
    return KneeFileJob(Source(path, path.name), reading)()


def write(path, image):
    good, data = cv2.imencode(path.suffix, image)
    assert good
    path.write_bytes(data.tobytes())
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_pictures_of_every_format_are_crops(tmp_path, suffix):
    (knee,) = read(write(tmp_path / f"9000296R{suffix}", knee_like()))
    assert isinstance(knee, Knee)
    assert (knee.side, knee.located, knee.notes) == ("R", "crop", ())
    assert knee.image.shape == (128, 128)
    expected = cv2.resize(knee_like(), (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(knee.image.astype(int) - expected).mean() < 3
    assert np.isnan(knee.landmarks).all()


def test_the_name_is_not_what_decides_the_format(tmp_path):
    path = write(tmp_path / "a.png", knee_like())
    (knee,) = read(path.rename(tmp_path / "a_R.dcm"))
    assert isinstance(knee, Knee)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("9000296L.png", "L"),
        ("9000296_L.png", "L"),
        ("left-knee.png", "L"),
        ("Patient RIGHT 3.png", "R"),
        ("R_and_L.png", ""),
        ("world.png", ""),
    ],
)
def test_the_side_is_read_from_the_name(tmp_path, name, side):
    (knee,) = read(write(tmp_path / name, knee_like()))
    assert knee.side == side
    assert bool(knee.notes) == (not side)


def test_left_knees_are_mirrored_and_a_given_side_counts(tmp_path):
    path = write(tmp_path / "a_R.png", knee_like())
    (right,), (left,) = read(path), read(path, side="L")
    np.testing.assert_array_equal(left.image, right.image[:, ::-1])
    assert left.side == "L"


def test_sixteen_bits_become_eight_by_their_range(tmp_path):
    (knee,) = read(write(tmp_path / "a_R.png", knee_like(dtype=np.uint16)))
    assert knee.image.dtype == np.uint8
    assert np.ptp(knee.image) > 200


def test_an_oblong_crop_is_cut_to_its_middle(tmp_path):
    (knee,) = read(write(tmp_path / "a_R.png", knee_like(width=300)))
    expected = cv2.resize(knee_like(width=300)[:, 30:270], (128, 128), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(knee.image, expected)


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def png_of(width, height):
    """A PNG that says how large it is, with hardly any pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    found = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        check = zlib.crc32(kind + content)
        found += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
    return found


def tiff_with(value):
    """A crop of floats, one of which has a value."""
    image = knee_like().astype(np.float32)
    image[3, 4] = value
    return cv2.imencode(".tif", image)[1].tobytes()


BAD = {
    "empty.png": (lambda: b"", "empty_file"),
    "text.dcm": (lambda: b"hello\n" * 99, "not_dicom"),
    "labels.csv": (lambda: b"file,kl\na,1\n", "not_dicom"),
    "blank.png": (
        lambda: cv2.imencode(".png", np.zeros((200, 200), np.uint8))[1].tobytes(),
        "flat",
    ),
    "long.png": (lambda: cv2.imencode(".png", knee_like(200, 500))[1].tobytes(), "not_a_crop"),
    "huge.png": (lambda: png_of(20_000, 10_000), "too_large"),
    "cut.png": (lambda: cv2.imencode(".png", knee_like())[1].tobytes()[:300], "corrupt_pixels"),
    "colour.jpg": (
        lambda: cv2.imencode(".jpg", np.dstack([knee_like(), knee_like()[::-1], knee_like() // 3]))[
            1
        ].tobytes(),
        "colour_image",
    ),
    "nan.tif": (lambda: tiff_with(np.nan), "corrupt_pixels"),
    "infinite.tif": (lambda: tiff_with(np.inf), "corrupt_pixels"),
    "DICOMDIR": (lambda: b"\0" * 128 + b"DICM", "index_of_files"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_graded_is_refused_by_name(tmp_path, name):
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content())
    (refusal,) = read(tmp_path / name)
    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith(reason)
    assert len(refusal.detail) >= 10


def test_folders_archives_and_links_are_listed_and_nothing_leads_out(tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    write(folder / "a_R.png", knee_like())
    write(folder / "sub" / "b_L.png", knee_like())
    write(tmp_path / "outside" / "c.png", knee_like())
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "a_R.png.pts").write_text("x")
    os.symlink(tmp_path / "outside" / "c.png", folder / "link.png")
    os.symlink(folder / "a_R.png", folder / "same.png")
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("d_R.png", (folder / "a_R.png").read_bytes())
        archive.writestr("../out_R.png", (folder / "a_R.png").read_bytes())
    found = {source.name: source for source in find([folder])}
    inside = {"a_R.png", "sub/b_L.png", "link.png", "same.png", "more.zip/d_R.png"}
    assert set(found) == inside | {"more.zip/../out_R.png"}
    results = {name: KneeFileJob(source, Reading(pixels=64))()[0] for name, source in found.items()}
    assert isinstance(results["link.png"], Refusal)
    assert results["link.png"].reason == "link_out"
    assert isinstance(results["same.png"], Knee)
    np.testing.assert_array_equal(results["more.zip/d_R.png"].image, results["a_R.png"].image)
    with pytest.raises(FileNotFoundError):
        list(find([tmp_path / "absent"]))


def test_names_tell_files_of_several_folders_apart_in_any_order(tmp_path, monkeypatch):
    for place in ("a/x.png", "b/x.png", "b/deep/x.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    with zipfile.ZipFile(tmp_path / "a/z.zip", "w") as archive:
        archive.writestr("x.png", b"")
    a, b = tmp_path / "a", tmp_path / "b"
    every = {"a/x.png", "a/z.zip/x.png", "b/x.png", "b/deep/x.png"}

    def names(*paths):
        return {source.name for source in unique(find(list(paths)))}

    # Of each way of naming them, by files, by folders or by what lies above, the same names.
    assert names(a, b) == names(b, a) == names(tmp_path) == names(a, b, a / "x.png") == every
    assert names(a / "x.png", b / "x.png") == {"a/x.png", "b/x.png"}
    assert names(a) == {"x.png", "z.zip/x.png"}
    assert names(a / "x.png") == names(a / "x.png", a / "x.png") == {"x.png"}
    monkeypatch.chdir(tmp_path)
    assert names(Path("a"), b, b / "../a") == every


def test_a_damaged_archive_is_refused_and_harms_no_other(tmp_path):
    write(tmp_path / "a_R.png", knee_like())
    (tmp_path / "b.zip").write_bytes(b"PK\x03\x04 and nothing more")
    good, damaged = (KneeFileJob(each, Reading(64))()[0] for each in find([tmp_path]))
    assert isinstance(good, Knee)
    assert isinstance(damaged, Refusal)
    assert damaged.source == "b.zip"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A phantom film of both knees with its landmark files."""
    root = tmp_path_factory.mktemp("film")
    study.write_study(root, num_subjects=1, visits=(0,), seed=3)
    return next(
        path for path in sorted(root.rglob("*")) if path.with_name(f"{path.name}.pts").exists()
    )


def test_a_film_is_cut_by_its_landmarks(film):
    knees = read(film)
    assert [knee.side for knee in knees] == ["R", "L"]
    for knee in knees:
        assert knee.located == "landmarks"
        assert np.isfinite(knee.landmarks).all()
        # The middle of the plateau is the middle of the region.
        np.testing.assert_allclose(knee.landmarks[55], 64, atol=1e-3)
    (only,) = read(film, side="L")
    np.testing.assert_array_equal(only.image, knees[1].image)


def test_a_film_without_landmarks_needs_to_be_asked_for_its_middles(film, tmp_path):
    copy = tmp_path / "film.dcm"
    copy.write_bytes(film.read_bytes())
    (refusal,) = read(copy)
    assert refusal.reason == "no_landmarks"
    assert "--roi=middle" in refusal.detail
    knees = read(copy, middle=True)
    assert [(knee.side, knee.located) for knee in knees] == [("R", "middle"), ("L", "middle")]
    folder = tmp_path / "points"
    folder.mkdir()
    for suffix in (".pts", "_f.pts"):
        text = film.with_name(f"{film.name}{suffix}").read_text()
        (folder / f"film.dcm{suffix}").write_text(text)
    apart = read(copy, landmarks=folder)
    for found, expected in zip(apart, read(film), strict=True):
        np.testing.assert_array_equal(found.image, expected.image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_pictures_are_turned_as_their_exif_says(tmp_path, orientation, suffix):
    rng = np.random.default_rng(0)
    image = PIL.Image.fromarray(cv2.resize(rng.integers(0, 256, (8, 7), np.uint8), (240, 260)))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a_R.{suffix}", exif=exif, quality=100)
    with PIL.Image.open(tmp_path / f"a_R.{suffix}") as saved:
        upright = np.asarray(PIL.ImageOps.exif_transpose(saved))
    write(tmp_path / "b_R.png", upright)
    (turned,), (expected,) = read(tmp_path / f"a_R.{suffix}"), read(tmp_path / "b_R.png")
    assert np.abs(turned.image.astype(int) - expected.image).mean() < 1


def test_members_that_are_never_read_are_listed_with_the_reason(tmp_path):
    with zipfile.ZipFile(tmp_path / "A.ZIP", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ok_R.png", png(knee_like()))
        archive.writestr("../out_R.png", png(knee_like()))
        archive.writestr("bomb.png", bytes(200_000_000))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/hostname")
    results = {s.name: KneeFileJob(s, Reading(pixels=64))()[0] for s in find([tmp_path])}
    assert isinstance(results.pop("A.ZIP/ok_R.png"), Knee)
    details = {name.rpartition("/")[2]: found.detail for name, found in results.items()}
    assert details == {
        "out_R.png": "its path leads out of the archive",
        "bomb.png": "it swells beyond all measure",
        "link.png": "a link or no plain file",
    }


def test_names_that_are_no_text_can_be_written(tmp_path):
    path = os.fsencode(tmp_path) + b"/knee_\xff_R.png"
    with open(path, "wb") as file:
        file.write(png(knee_like()))
    (source,) = find([tmp_path])
    (knee,) = KneeFileJob(source, Reading(pixels=64))()
    assert knee.source.encode()
    assert knee.side == "R"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"BodyPartExamined": "CHEST"}, "other_body_part"),
        ({"BodyPartExamined": "HAND"}, "other_body_part"),
        ({"ViewPosition": "LL"}, "other_view"),
        ({"RescaleSlope": "1e38", "RescaleIntercept": "0"}, "corrupt_header"),
        ({"RescaleSlope": "1", "RescaleIntercept": "1e9"}, "corrupt_header"),
        ({"BodyPartExamined": "KNEE", "ViewPosition": "PA"}, ""),
    ],
)
def test_films_of_other_parts_and_absurd_scales_are_refused(film, tmp_path, changes, reason):
    import pydicom

    header = pydicom.dcmread(film)
    for keyword, value in changes.items():
        setattr(header, keyword, value)
    header.save_as(tmp_path / "film.dcm")
    found = read(tmp_path / "film.dcm", middle=True)
    assert [getattr(each, "reason", "") for each in found] == ([reason] if reason else ["", ""])
    if reason.startswith("other_"):
        assert "give a frontal film of the knees" in found[0].detail


@pytest.mark.parametrize("like_crops", [False, True])
def test_a_films_knees_are_cut_as_the_model_knows_them(tmp_path, like_crops):
    """140 mm about a level plateau; or 1.27 plateaus wide, as they lie, and a little higher."""
    study.write_study(tmp_path, num_subjects=1, visits=(0,), rows=512, progress=False)
    (path,) = tmp_path.rglob("001")
    for knee in read(path, like_crops=like_crops):
        lateral, medial = knee.landmarks[47], knee.landmarks[63]
        width = np.linalg.norm(medial - lateral)
        if like_crops:
            assert width / 128 == pytest.approx(1 / knee_files.CROP_WIDTHS, rel=1e-3)
            assert 64 - knee.landmarks[55, 1] == pytest.approx(
                -knee_files.CROP_RISE * width, abs=0.1
            )
            assert knee.landmarks[55, 0] == pytest.approx(64, abs=0.1)
        else:
            assert 128 * knee.spacing_mm == pytest.approx(140)
            assert lateral[1] == pytest.approx(medial[1], abs=0.05)
            np.testing.assert_allclose(knee.landmarks[55], 64, atol=0.05)
        assert 60 < width * knee.spacing_mm < 105


def test_a_film_is_read_once_for_the_look_and_the_cut(tmp_path, monkeypatch):
    study.write_study(tmp_path, num_subjects=1, visits=(0,), rows=512, progress=False)
    (path,) = tmp_path.rglob("001")
    for landmarks in path.parent.glob("*.pts"):
        landmarks.unlink()
    reads, read_film = [], knee_files.dicom.read_film

    def counted(*arguments):
        reads.append(arguments)
        return read_film(*arguments)

    monkeypatch.setattr(knee_files.dicom, "read_film", counted)
    points = np.full((74, 2), np.nan)
    points[knee_files.PLATEAU_CENTRE] = 100, 150
    job = KneeFileJob(Source(path, "001"), Reading(pixels=64, localise=True))
    cut = dataclasses.replace(job, found={"R": points})
    assert isinstance(job()[0], knee_files.Unplaced)
    (knee,) = cut()
    assert len(reads) == 1
    # Cut, it is kept no longer; another file of the name is read anew.
    (again,) = cut()
    assert len(reads) == 2
    np.testing.assert_array_equal(knee.image, again.image)
    assert isinstance(job()[0], knee_files.Unplaced)
    path.write_bytes(path.read_bytes() + b"\0\0")
    cut()
    assert len(reads) == 4


def test_a_strip_is_no_film(tmp_path):
    """It would be looked at through tens of thousands of windows."""
    path = tmp_path / "strip.dcm"
    grey = np.arange(16 * 4000, dtype=np.uint32) % 4000
    path.write_bytes(small_film(grey.astype(np.uint16).reshape(16, 4000)))
    (refusal,) = read(path, localise=True)
    assert (refusal.reason, "4000 x 16 pixels" in refusal.detail) == ("too_long", True)


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_pages_and_frames_beyond_the_first_are_not_dropped_in_silence(suffix, tmp_path):
    first = PIL.Image.fromarray(knee_like())
    path = tmp_path / f"a_R.{suffix}"
    first.save(path, save_all=True, append_images=[PIL.ImageOps.flip(PIL.ImageOps.mirror(first))])
    (refused,) = read(path)
    assert (refused.reason, "a file of its own" in refused.detail) == ("multi_frame", True)
    first.save(path, save_all=True)
    assert isinstance(read(path)[0], Knee)


def test_a_smaller_version_in_a_tiff_is_no_further_picture(tmp_path):
    path = tmp_path / "a_R.tif"
    whole = PIL.Image.fromarray(knee_like())
    small = whole.resize((60, 60))
    small.encoderinfo = {"tiffinfo": {0x00FE: 1}}
    whole.save(path, save_all=True, append_images=[small])
    with PIL.Image.open(path) as opened:
        opened.seek(1)
        assert opened.tag_v2[0x00FE] == 1
    assert isinstance(read(path)[0], Knee)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_what_is_transparent_is_not_read(tmp_path, suffix):
    seen = knee_like()
    opacity = np.full_like(seen, 255)
    opacity[:40] = 0
    opacity[-40:] = 128
    PIL.Image.fromarray(np.dstack([seen, seen, seen, opacity])).save(tmp_path / f"alpha_R{suffix}")
    black = seen.copy()
    black[:40] = 0
    write(tmp_path / "black_R.png", black)
    (found,), (expected,) = read(tmp_path / f"alpha_R{suffix}"), read(tmp_path / "black_R.png")
    assert seen[:40].max() > 50
    rows = np.s_[: found.image.shape[0] * 2 // 3]
    np.testing.assert_array_equal(found.image[rows], expected.image[rows])


def test_opacity_of_nothing_means_nothing(tmp_path):
    seen = knee_like()
    write(tmp_path / "alpha_R.png", np.dstack([seen, seen, seen, np.zeros_like(seen)]))
    write(tmp_path / "plain_R.png", seen)
    (found,), (expected,) = read(tmp_path / "alpha_R.png"), read(tmp_path / "plain_R.png")
    np.testing.assert_array_equal(found.image, expected.image)
