"""A study in archives is the same set as on the disk, and no archive does harm."""

import io
import json
import os
import shutil
import tarfile
import zipfile

import pandas as pd
import pytest

from knee_jax.datasets.prepare import prepare
from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest import archives, dicom, tree
from knee_jax.ingest.series import read_volume
from knee_jax.phantom.study import write_study
from tests.folders import contents


def add(tape, name, data=b"", **changes):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in changes.items():
        setattr(info, key, value)
    tape.addfile(info, io.BytesIO(data))


def write(path, members):
    """An archive of a dict of names and contents."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in members.items():
                file.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as tape:
            for name, data in members.items():
                add(tape, name, data)
    return path


def pack(folder, suffix, *, with_top=True):
    """Put an archive in the place of a folder."""
    top = f"{folder.name}/" if with_top else ""
    members = {
        f"{top}{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    archive = write(folder.with_name(f"{folder.name}{suffix}"), members)
    shutil.rmtree(folder)
    return archive


@pytest.mark.parametrize("suffix", archives.SUFFIXES)
class TestMembers:
    def test_below_the_folder_that_the_archive_stands_for(self, tmp_path, suffix):
        for members in ({"x/001": b"a", "x/b/c": b"cc"}, {"./001": b"a", "b/c": b"cc"}):
            archive = write(tmp_path / f"x{suffix}", members)
            os.utime(archive, ns=(len(str(members)), 1))
            assert archives.files(archive) == {"001": 1, "b/c": 2}
            assert archives.read(tmp_path / "x" / "b" / "c") == b"cc"
            assert archives.names(tmp_path / "x") == ["001"]
            assert archives.names(tmp_path / "x" / "b") == ["c"]
            assert archives.is_folder(tmp_path / "x" / "b")
            assert archives.exists(tmp_path / "x" / "001")
            assert not archives.exists(tmp_path / "x" / "002")
            assert archives.on_disk(tmp_path / "x" / "001") == archive
            with pytest.raises(OSError, match="not in its archive"):
                archives.read(tmp_path / "x" / "002")
            assert tree.walk(tmp_path).files == {"": [], "x": ["001"], "x/b": ["c"]}
            archive.unlink()

    def test_a_folder_counts_before_its_archive(self, tmp_path, suffix):
        write(tmp_path / f"x{suffix}", {"x/001": b"packed"})
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "001").write_bytes(b"unpacked")
        assert archives.read(tmp_path / "x" / "001") == b"unpacked"
        assert tree.walk(tmp_path).files == {"": [], "x": ["001"]}

    def test_names_that_lead_elsewhere_are_left_out(self, tmp_path, suffix):
        names = ["../out", "/etc/out", "a/../../out", "C:/out", "..\\out", ".hidden", "a/.b/c"]
        (tmp_path / "in").mkdir()
        archive = write(tmp_path / "in" / f"x{suffix}", dict.fromkeys([*names, "001"], b"a"))
        assert archives.files(archive) == {"001": 1}
        assert [path.name for path in tmp_path.rglob("*")] == ["in", f"x{suffix}"]

    def test_damaged(self, tmp_path, suffix):
        archive = write(tmp_path / f"x{suffix}", {"001": os.urandom(9999), "002": bytes(9999)})
        data = archive.read_bytes()
        for number, broken in enumerate((data[: len(data) // 2], b"", b"text" * 99)):
            archive.write_bytes(broken)
            os.utime(archive, ns=(number, number))
            with pytest.raises(OSError, match="archive is damaged") as caught:
                archives.files(archive)
            assert caught.value.strerror
            found = tree.walk(tmp_path)
            assert found.unreadable == {"x": caught.value.strerror}


class TestHarm:
    def test_links_are_left_out(self, tmp_path):
        secret = tmp_path / "secret"
        secret.write_bytes(b"secret")
        with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tape:
            add(tape, "link", type=tarfile.SYMTYPE, linkname=str(secret))
            add(tape, "hard", type=tarfile.LNKTYPE, linkname="001")
            add(tape, "pipe", type=tarfile.FIFOTYPE)
            add(tape, "001", b"a")
        assert archives.files(tmp_path / "x.tar.gz") == {"001": 1}
        with zipfile.ZipFile(tmp_path / "y.zip", "w") as file:
            link = zipfile.ZipInfo("link")
            link.external_attr = 0o120777 << 16
            file.writestr(link, str(secret))
            file.writestr("001", b"a")
        assert archives.files(tmp_path / "y.zip") == {"001": 1}

    @pytest.mark.parametrize("suffix", archives.SUFFIXES)
    def test_bombs(self, tmp_path, suffix, monkeypatch):
        monkeypatch.setattr(archives, "_SPARED", 2**20)
        archive = write(tmp_path / f"x{suffix}", {"001": b"a", "002": bytes(2**24)})
        if suffix == ".zip":
            assert archives.files(archive) == {"001": 1}
        else:
            with pytest.raises(OSError, match="swells"):
                archives.files(archive)

    def test_encrypted(self, tmp_path):
        path = write(tmp_path / "x.zip", {"001": b"abc"})
        data = bytearray(path.read_bytes())
        for begin, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.index(begin) + offset] |= 1
        path.write_bytes(data)
        with pytest.raises(OSError, match="encrypted"):
            archives.read(tmp_path / "x" / "001")
        with pytest.raises(UnusableKnee, match="encrypted") as caught:
            dicom.read_film(tmp_path / "x" / "001")
        assert caught.value.reason == "unreadable"


def test_a_series(make, tmp_path):
    import numpy as np

    voxels = np.random.default_rng(0).integers(0, 2000, (12, 16, 8), np.uint16)
    folder = make.write_series(tmp_path / "one" / "0001", make.mr_slices(voxels, (0.5, 0.25, 3.0)))
    expected = read_volume(folder, "R")
    for suffix in archives.SUFFIXES:
        packed = tmp_path / suffix.replace(".", "_") / "0001"
        shutil.copytree(folder, packed)
        pack(packed, suffix, with_top=suffix == ".tgz")
        found = read_volume(packed, "R")
        np.testing.assert_array_equal(found.voxels, expected.voxels)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study") / "OAI"
    write_study(root, num_subjects=4, visits=(0,), seed=3, rows=512, progress=False)
    return root


def pack_films(root):
    for n, film in enumerate(sorted(root.rglob("001"))):
        pack(film.parent, archives.SUFFIXES[n % 3], with_top=n % 2 == 0)


def pack_month(root):
    pack(root / "00m", ".zip")
    pack(root / "tables", ".tgz", with_top=False)


def pack_all(root):
    pack(root, ".zip")


@pytest.mark.parametrize("how", [pack_films, pack_month, pack_all])
def test_a_study_in_archives_is_the_same_set(study, tmp_path, how):
    expected = prepare("oai_xray", tmp_path / "a", study, workers=1)
    root = tmp_path / "OAI"
    shutil.copytree(study, root)
    how(root)
    before = sorted(path for path in tmp_path.rglob("*") if "OAI" in path.parts)
    given = root if root.exists() else root.with_name("OAI.zip")
    found = prepare("oai_xray", tmp_path / "b", given, workers=1)
    assert contents(found) == contents(expected)
    assert sorted(path for path in tmp_path.rglob("*") if "OAI" in path.parts) == before


def test_a_damaged_archive_costs_its_knees_alone(study, tmp_path):
    root = tmp_path / "OAI"
    shutil.copytree(study, root)
    pack_films(root)
    archive = sorted(path for path in root.rglob("*") if archives.stem(path.name))[0]
    archive.write_bytes(archive.read_bytes()[:1000])
    folder = prepare("oai_xray", tmp_path / "data", root, workers=1)
    lost = pd.read_csv(folder / "exclusions.csv", dtype=str)
    assert set(lost["reason"]) == {"unreadable_folder"}
    assert set(lost["detail"]) == {"its archive is damaged; pack it, or copy it, again"}
    assert json.loads((folder / "ingest_report.json").read_text())["kept"] == 6


def test_an_archive_that_is_none(tmp_path):
    (tmp_path / "OAI.zip").write_bytes(b"no archive")
    with pytest.raises(UserError, match="archive is damaged"):
        prepare("oai_xray", tmp_path / "data", tmp_path / "OAI.zip", workers=1)
