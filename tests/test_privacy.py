"""Personal data in a study's files reach neither a prepared set nor the output of a command."""

import os
import shutil
import warnings
import zipfile

import pandas as pd
import pydicom
import pytest
from array_record.python import array_record_module
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.valuerep import VR

from knee_jax.ingest.report import mask_dates
from knee_jax.phantom.mri import write_mri_study
from knee_jax.phantom.study import write_study
from tests.commands import run

TEXTS = {
    VR.PN: "Planted^Name",
    VR.LO: "PLANTED TEXT",
    VR.SH: "PLANTED SHORT",
    VR.ST: "PLANTED TEXT",
    VR.LT: "PLANTED TEXT",
    VR.UT: "PLANTED TEXT",
    VR.CS: "PLANTED CODE",
    VR.AE: "PLANTED TITLE",
    VR.DA: "19010203",
    VR.TM: "010203.99",
    VR.DT: "19010203010203",
    VR.AS: "099Y",
    VR.UI: "1.2.3.999666999.1",
    VR.DS: "942786.25",
    VR.IS: "942786",
}
NEEDED = {
    "Modality",
    "PatientID",
    "PhotometricInterpretation",
    "SeriesDescription",
    "ImagerPixelSpacing",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SeriesInstanceUID",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTFunction",
    "Laterality",
    "ImageLaterality",
}
"""Elements that the ingest reads; they are planted in the broken files only."""

ALWAYS = (
    "PatientName",
    "PatientBirthDate",
    "PatientAddress",
    "PatientAge",
    "PatientComments",
    "OtherPatientIDs",
    "OtherPatientNames",
    "InstitutionName",
    "InstitutionAddress",
    "AccessionNumber",
    "ReferringPhysicianName",
    "OperatorsName",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ContentDate",
    "AcquisitionDateTime",
    "DeviceSerialNumber",
    "StationName",
    "ImageComments",
    "StudyInstanceUID",
)
# Digits out of order: in order they are the grey values of any smooth edge.
NEEDLES = ("planted", "19010203", "010203.99", "099y", "999666999", "942786")

OF_TIME = ("19010203", "010203.99")

BREAKS = {
    "modality": {"Modality": "PLANTED CODE"},
    "polarity": {"PhotometricInterpretation": "PLANTED CODE"},
    "spacing": {"ImagerPixelSpacing": "PLANTED", "PixelSpacing": "PLANTED"},
    "position": {"ImagePositionPatient": "PLANTED"},
    "rescale": {"RescaleSlope": "PLANTED"},
    "intercept": {"RescaleIntercept": "PLANTED"},
    "frames": {"NumberOfFrames": "PLANTED"},
    "series": {"SeriesInstanceUID": "1.2.3.999666999.1"},
    "subject": {"PatientID": "PLANTED 9427861"},
}


def planted(film, **more):
    """Puts unmistakable values into every text element that the ingest does not read."""
    for element in list(film):
        if element.VR in TEXTS and element.keyword not in NEEDED:
            element.value = TEXTS[element.VR]
    for keyword in ALWAYS:
        setattr(film, keyword, TEXTS[VR(dictionary_VR(keyword))])
    block = film.private_block(0x0011, "PLANTED CREATOR", create=True)
    block.add_new(0x01, "LO", "PLANTED PRIVATE")
    for keyword, value in more.items():
        # Not as pydicom would have it, but as a broken file does.
        vr = "UI" if keyword == "SeriesInstanceUID" else "LO"
        film.add_new(keyword, vr, value)
    return film


def write(path, film):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(path, film)


def words_of_png(data: bytes) -> bytes:
    """All chunks but the pixels'."""
    chunks, start = [], 8
    while start < len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] != b"IDAT":
            chunks.append(data[start : start + 12 + length])
        start += 12 + length
    assert len(chunks) >= 2
    return b"".join(chunks)


def assert_nothing_is_leaked(done, data_dir, dates):
    assert done.returncode == 0, done.stderr[-3000:]
    texts = {"output": (done.stdout + done.stderr).encode()}
    for path in data_dir.rglob("*"):
        if path.is_file():
            texts[str(path.relative_to(data_dir))] = path.read_bytes()
        if path.suffix == ".png":
            # Compressed pixels alone, in which a short word may turn up by chance.
            texts[str(path.relative_to(data_dir))] = words_of_png(path.read_bytes())
        if ".array_record" in path.name:
            # They are compressed.
            records = array_record_module.ArrayRecordReader(str(path)).read_all()
            texts[f"records of {path.name}"] = b"".join(records)
    assert any(name.startswith("records of") for name in texts)
    for name, data in texts.items():
        needles = {*NEEDLES, *dates}
        if name.startswith("inventories/"):
            # Which of two images was taken later is asked every time; that is no prepared set.
            needles -= {*OF_TIME, *dates}
        for needle in needles:
            assert needle.encode() not in data.lower(), (needle, name)


def dates_in(root):
    return {part for path in root.rglob("*") for part in path.parts if len(part) == 8} & {
        path.parts[-3] for path in root.glob("*/*/*/*/*/*")
    }


def test_the_needles_are_what_is_planted():
    film = planted(pydicom.Dataset())
    for element in film:
        if element.VR != "UI" or keyword_for_tag(element.tag) in ALWAYS:
            assert any(needle in str(element.value).lower() for needle in NEEDLES), element


def test_films(tmp_path):
    root, data_dir = tmp_path / "study", tmp_path / "data"
    write_study(root, num_subjects=10, visits=(0,), rows=512, progress=False)
    films = sorted(root.glob("00m/*/*/*/*/001"))
    dates = dates_in(root)
    assert dates
    names = list(BREAKS)
    for number, path in enumerate(films):
        broken = BREAKS[names[number]] if number < len(names) else {}
        write(path, planted(pydicom.dcmread(path), **broken))
    # Cut within its header, where a name stands; and taken again.
    data = films[7].read_bytes()
    films[7].write_bytes(data[: data.index(b"Planted^Name") + 3])
    again = films[-1].parents[2] / "19991231" / "0000002"
    again.mkdir(parents=True)
    write(again / "001", pydicom.dcmread(films[-1]))
    flags = ["--dataset=oai_xray", f"--manual_dir={root}", f"--data_dir={data_dir}"]
    done = run("knee_jax.prepare", *flags, "--workers=1")
    assert_nothing_is_leaked(done, data_dir, {*dates, "19991231"})
    folder = data_dir / "oai_xray" / "default" / "1.1.0"
    reasons = set(pd.read_csv(folder / "exclusions.csv")["reason"])
    expected = {"wrong_modality", "unknown_polarity", "bad_spacing", "corrupt_header"}
    expected |= {"subject_contradicts"}
    assert expected | {"repeated_film"} <= reasons
    # The path still leads to the file.
    for source in pd.read_csv(folder / "index.csv")["source"]:
        assert len(list(root.glob(source))) == 1


STRANGE = (
    {"PresentationLUTShape": "PLANTED CODE", "PatientOrientation": "PLANTED"},
    {"ImagerPixelSpacing": "", "NominalScannedPixelSpacing": "942786.25"},
    {"PixelPaddingValue": "PLANTED 942786", "PixelIntensityRelationshipSign": "PLANTED"},
    {"VOILUTFunction": "PLANTED CODE", "BitsStored": "PLANTED"},
    {"PatientOrientation": "H\\F"},
)


def test_strange_films_and_archives(tmp_path):
    """Remarks quote no header, and archives may hold files of any name."""
    root, data_dir = tmp_path / "study", tmp_path / "data"
    write_study(root, num_subjects=8, visits=(0,), rows=512, progress=False)
    films = sorted(root.glob("00m/*/*/*/*/001"))
    dates = dates_in(root)
    for path, strange in zip(films, (*STRANGE, {}, {}, {})):
        film = planted(pydicom.dcmread(path), **strange)
        lut = pydicom.Dataset()
        lut.LUTDescriptor, lut.LUTExplanation = [4, 0, 16], "PLANTED TEXT"
        lut.add_new("LUTData", "OW", bytes(8))
        lut["LUTDescriptor"].VR = "US"
        film.VOILUTSequence = [lut]
        write(path, film)
    for path in films[5:]:
        archive = path.parent.with_name(f"{path.parent.name}.zip")
        with zipfile.ZipFile(archive, "w") as file:
            for each in sorted(path.parent.iterdir()):
                file.write(each, each.name)
            file.writestr("Planted Name/19010203/report.txt", "PLANTED TEXT")
        shutil.rmtree(path.parent)
    archive.write_bytes(archive.read_bytes()[:2000] + b"PLANTED")
    flags = ["--dataset=oai_xray", f"--manual_dir={root}", f"--data_dir={data_dir}"]
    done = run("knee_jax.prepare", *flags, "--workers=1", "--spacing=0.2")
    assert_nothing_is_leaked(done, data_dir, dates)
    folder = data_dir / "oai_xray" / "default" / "1.1.0"
    notes = set(pd.read_csv(folder / "notes.csv")["note"])
    assert {"voi_table_left_out", "header_lies_on_its_side"} <= notes
    reasons = set(pd.read_csv(folder / "exclusions.csv")["reason"])
    assert {"bad_spacing", "corrupt_header", "unreadable_folder"} <= reasons


def test_paths_of_most(tmp_path):
    """Whose folders below the subject's may be called anything."""
    root, data_dir = tmp_path / "study", tmp_path / "data"
    write_study(root, num_subjects=4, visits=(0,), rows=512, study="most", progress=False)
    for film in sorted(root.glob("*_XRAY/*/PA10/001*"), reverse=True):
        film.rename(film.with_name(film.name.replace("001", "Planted 19010203.dcm")))
    for folder in list(root.glob("*_XRAY/*")):
        folder.rename(folder.with_name(folder.name.split("_")[0] + "_Planted_Name_31Dec2004"))
    (bare, *_) = sorted(root.glob("*_XRAY/*/PA10/*_f.pts"))
    bare.unlink()
    (root / "tables" / "MOST_names.csv").unlink()
    flags = ["--dataset=most_xray", f"--manual_dir={root}", f"--data_dir={data_dir}"]
    done = run("knee_jax.prepare", *flags, "--workers=1")
    assert_nothing_is_leaked(done, data_dir, {"31dec2004", "dec2004"})
    folder = data_dir / "most_xray" / "default" / "1.0.0"
    lost = pd.read_csv(folder / "exclusions.csv")
    assert "*_f.pts is missing" in lost["detail"].tolist()
    index = pd.read_csv(folder / "index.csv")
    assert len(index) > 2
    for source in [*index["source"], *lost["source"].dropna()]:
        assert source.endswith("/V0_*_*_*/PA10/* *.dcm")
        assert len(list(root.glob(source))) == 1


def test_series(tmp_path, monkeypatch):
    root, data_dir = tmp_path / "study", tmp_path / "data"
    write_mri_study(root, num_subjects=6, seed=2, shape=(32, 32, 16), progress=False)
    series = sorted({path.parent for path in root.glob("00m/*/*/*/*/*")})
    breaks = 2 * [
        BREAKS[name] for name in ("modality", "polarity", "position", "rescale", "series")
    ]
    for number, folder in enumerate(series):
        for path in sorted(folder.iterdir()):
            last = path == max(folder.iterdir())
            broken = breaks[number] if last and number < len(breaks) else {}
            write(path, planted(pydicom.dcmread(path), **broken))
    (tmp_path / "small_volumes.py").write_text(
        "from knee_jax.cli.run import run_command\n"
        "from knee_jax.datasets import oai_mri\n"
        "from knee_jax.ingest.volume import Preparation\n"
        "oai_mri.Preparation = lambda view: Preparation((32, 32, 16), 0, view)\n"
        "if __name__ == '__main__':\n"
        "    run_command('prepare')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    flags = ["--dataset=oai_mri", f"--manual_dir={root}", f"--data_dir={data_dir}"]
    done = run("small_volumes", *flags, "--workers=1")
    assert_nothing_is_leaked(done, data_dir, dates_in(root))
    folder = data_dir / "oai_mri" / "sagittal" / "1.0.0"
    reasons = set(pd.read_csv(folder / "exclusions.csv")["reason"])
    assert {"wrong_modality", "unknown_polarity", "corrupt_header", "mixed_series"} <= reasons


@pytest.mark.parametrize(
    ("path", "masked"),
    [
        ("00m/0.C.2/9000001/20041115/00123456/001", "00m/0.C.2/9000001/*/00123456/001"),
        ("M01234XX/v0_2004-11-15/PA10/1.dcm", "M01234XX/v0_*/PA10/1.dcm"),
        ("train/3/9000001L.png", "train/3/9000001L.png"),
        ("M01234XX/v0_8Mar2004/PA10/1.dcm", "M01234XX/v0_*/PA10/1.dcm"),
        ("a/21.02.2004_x/31-December-2004/001", "a/*_x/*/001"),
        # None is a day.
        ("00m/20049999/120041115001/001", "00m/20049999/120041115001/001"),
        ("10.C.2/9000001/8mask2004/1-1/45.2004", "10.C.2/9000001/8mask2004/1-1/45.2004"),
    ],
)
def test_mask_dates(path, masked):
    assert mask_dates(path) == masked
