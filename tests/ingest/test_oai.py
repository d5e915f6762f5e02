import collections
import os
import shutil

import numpy as np
import pydicom
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest import contents, landmarks
from knee_jax.ingest.film import Roi
from knee_jax.ingest.headers import DEFAULT_LOADER, Header, HeaderLoader
from knee_jax.ingest.inventory import DEFAULT_RULES, Rules
from knee_jax.ingest.oai_images import film_sides
from knee_jax.ingest.report import Exclusion
from knee_jax.ingest.study import plan_study
from knee_jax.phantom import clutter
from knee_jax.phantom.study import write_study

ROI = Roi(140, 70)
SUBJECTS = ("9000001", "9000002", "9000003")


@pytest.fixture
def study(make, tmp_path):
    """Root and films of three subjects at month 0."""
    return tmp_path, make.write_study(tmp_path, SUBJECTS)


def ingest(root, rules=DEFAULT_RULES, loader=DEFAULT_LOADER):
    """Kept knees by (subject, side, visit), the excluded ones, and the notes that are not 0."""
    jobs, exclusions, notes = plan_study(root, "test", ROI, rules=rules, loader=loader)
    results = [knee for job in jobs for knee in job()]
    kept = [knee for knee in results if isinstance(knee, dict)]
    by_knee = {(k["subject"], k["side"], k["visit"]): k for k in kept}
    assert len(by_knee) == len(kept)
    exclusions = [*exclusions, *(knee for knee in results if isinstance(knee, Exclusion))]
    del notes["knees_in_the_tables"]
    return by_knee, exclusions, {name: count for name, count in notes.items() if count}


def reasons(exclusions):
    return sorted((knee.subject, knee.side, knee.reason) for knee in exclusions)


def both(subject, reason):
    return [(subject, "L", reason), (subject, "R", reason)]


def change(path, target=None, **tags):
    """Sets elements of a file, or of a copy of it; landmarks go along."""
    film = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(film, name, value)
    target = target or path
    target.parent.mkdir(parents=True, exist_ok=True)
    film.save_as(target)
    if target != path:
        for suffix in landmarks.SUFFIXES.values():
            shutil.copyfile(f"{path}{suffix}", f"{target}{suffix}")
    return target


@pytest.mark.parametrize(
    ("description", "side", "expected"),
    [
        ("Bilateral PA Fixed Flexion Knee", "", "RL"),
        ("BILATERAL PA FIXED FLEXION KNEES", "", "RL"),
        ("Bilat. PA fixed-flexion", "R", "RL"),
        ("Knees PA bilateral", "", "RL"),
        ("PA Fixed Flexion Right Knee", "", "R"),
        ("PA Fixed Flexion Left Knee", "L", "L"),
        ("PA_FF_KNEE_L", "", "L"),
        ("PA Fixed Flexion Knee", "R", "R"),
        ("PA Fixed Flexion Knee", "", "?"),
        ("PA Fixed Flexion Left Knee", "R", "?"),
        ("PA Right Hand", "R", ""),
        ("PA Bilateral Hand", "", ""),
        ("AP Pelvis", "", ""),
        ("AP Bilateral Knee", "", ""),
        ("Lateral Right Knee", "R", ""),
        ("Full Limb", "", ""),
        ("", "", "RL"),
        ("", "L", ""),
    ],
)
def test_what_a_film_shows(description, side, expected):
    assert film_sides(Header("CR", description, side)) == expected


class TestOtherFilms:
    def test_they_are_counted_by_what_they_show(self, study):
        root, paths = study
        for path in paths[:2]:
            hand = path.parents[1] / "0123" / "001"
            change(path, hand, SeriesDescription="PA Right Hand", Laterality="R")
        change(paths[0], paths[0].parents[1] / "0124" / "001", SeriesDescription="AP Pelvis")
        kept, exclusions, notes = ingest(root)
        assert len(kept) == 6
        assert not exclusions
        assert notes == {"other_films_pa_right_hand": 2, "other_films_ap_pelvis": 1}

    def test_a_visit_with_no_other_film_has_no_film(self, study):
        root, paths = study
        change(paths[0], SeriesDescription="AP Pelvis")
        kept, exclusions, notes = ingest(root)
        assert len(kept) == 4
        assert reasons(exclusions) == both("9000001", "no_film")
        assert notes == {"other_films_ap_pelvis": 1}

    def test_a_film_without_a_description_is_taken_for_one_of_both_knees(self, study):
        root, paths = study
        change(paths[0], SeriesDescription="")
        kept, exclusions, notes = ingest(root)
        assert len(kept) == 6
        assert not exclusions
        assert notes == {"films_without_description": 1}

    def test_mr_series_are_no_films(self, study, make):
        root, paths = study
        slices = make.mr_slices(np.zeros((4, 4, 3), np.uint16))
        make.write_series(paths[0].parents[1] / "0999", slices)
        (paths[1].parents[1] / "0998").mkdir()
        for name in ("001", "002"):
            (paths[1].parents[1] / "0998" / name).write_bytes(b"")
        kept, exclusions, notes = ingest(root)
        assert len(kept) == 6
        assert not exclusions
        assert notes == {"mr_series": 2}


class TestFilmsOfOneKnee:
    def test_they_give_the_knees_of_the_film_of_both(self, tmp_path):
        """Cut from it: the same landmarks and pixels, but for the other half's share of grey."""
        made = write_study(tmp_path, num_subjects=3, visits=(0,), seed=3, rows=512, progress=False)
        before, _, _ = ingest(tmp_path)
        source = made["source"].iloc[2]
        halves = clutter.separate_knees(tmp_path / source)
        after, exclusions, _ = ingest(tmp_path)
        assert not exclusions
        assert list(after) == list(before)
        for (subject, side, visit), knee in after.items():
            old = before[subject, side, visit]
            assert knee["grades"].tolist() == old["grades"].tolist()
            np.testing.assert_allclose(knee["keypoints"], old["keypoints"], atol=1e-3)
            if old["source"] == source:
                assert tmp_path / knee["source"] == halves[side]
                correlation = np.corrcoef(knee["image"].ravel(), old["image"].ravel())[0, 1]
                assert correlation > 0.999
            else:
                np.testing.assert_array_equal(knee["image"], old["image"])

    def test_one_alone_leaves_the_other_knee_without_a_film(self, study):
        root, paths = study
        change(paths[0], SeriesDescription="PA Fixed Flexion Left Knee")
        kept, exclusions, _ = ingest(root)
        assert ("9000001", "L", 0) in kept
        assert reasons(exclusions) == [("9000001", "R", "no_film")]

    def test_a_film_of_both_counts_before_them(self, study):
        root, paths = study
        again = paths[0].parents[2] / "20050101" / "0999" / "001"
        change(
            paths[0], again, SeriesDescription="PA Fixed Flexion Left Knee", StudyDate="20050101"
        )
        change(again, again.parent.with_name("0998") / "001")
        kept, exclusions, _ = ingest(root)
        assert len(kept) == 6
        assert reasons(exclusions) == [("9000001", "L", "repeated_film")] * 2
        assert {root / knee.source for knee in exclusions} == {
            again,
            again.parent.with_name("0998") / "001",
        }

    def test_a_side_that_is_not_told(self, study):
        root, paths = study
        change(paths[0], SeriesDescription="PA Fixed Flexion Knee")
        _, exclusions, _ = ingest(root)
        assert reasons(exclusions) == both("9000001", "no_side")
        assert {root / knee.source for knee in exclusions} == {paths[0]}

    def test_of_two_films_whose_side_is_not_told_each_knee_is_lost_once(self, study):
        root, paths = study
        change(paths[0], SeriesDescription="PA Fixed Flexion Knee")
        change(paths[0], paths[0].parent.with_name("1900000100") / "001")
        _, exclusions, _ = ingest(root)
        assert [knee.reason for knee in exclusions] == ["no_side"] * 3
        assert sorted(knee.side for knee in exclusions) == ["", "L", "R"]

    def test_a_side_that_is_not_told_where_one_knee_has_a_film(self, study):
        root, paths = study
        change(paths[0], SeriesDescription="PA Fixed Flexion Left Knee")
        untold = paths[0].parent.with_name("1900000100") / "001"
        change(paths[0], untold, SeriesDescription="PA Fixed Flexion Knee")
        kept, (exclusions,), _ = ingest(root)
        assert len(kept) == 5
        assert (exclusions.side, exclusions.reason) == ("R", "no_side")
        change(paths[0], SeriesDescription="Bilateral PA Fixed Flexion Knee")
        kept, (exclusions,), _ = ingest(root)
        assert len(kept) == 6
        assert (exclusions.side, exclusions.reason) == ("", "no_side")


class TestRepeats:
    @pytest.mark.parametrize(
        ("old", "new", "latest"),
        [
            ({"StudyDate": "20041115"}, {"StudyDate": "20041114"}, "old"),
            ({"StudyDate": "20041115"}, {"StudyDate": "20041116"}, "new"),
            ({"StudyTime": "101500"}, {"StudyTime": "101400"}, "old"),
            ({"SeriesTime": "101500"}, {"SeriesTime": "101600"}, "new"),
            (
                {"SeriesDate": "20041116"},
                {"SeriesDate": "20041115", "StudyDate": "20050101"},
                "old",
            ),
            ({}, {}, "new"),
            ({"StudyDate": "20041115"}, {}, "old"),
        ],
    )
    def test_the_last_one_taken_counts_and_of_the_same_time_the_last_path(
        self, study, old, new, latest
    ):
        root, paths = study
        again = change(paths[0], paths[0].parent.with_name("1900000100") / "001", **new)
        change(paths[0], **old)
        kept, exclusions, _ = ingest(root)
        assert len(kept) == 6
        chosen, other = (again, paths[0]) if latest == "new" else (paths[0], again)
        assert root / kept["9000001", "R", 0]["source"] == chosen
        assert reasons(exclusions) == both("9000001", "repeated_film")
        assert {root / knee.source for knee in exclusions} == {other}

    def test_two_films_in_one_folder(self, study):
        root, paths = study
        change(paths[0], StudyDate="20041115")
        change(paths[0], paths[0].with_name("002"), StudyDate="20000101")
        kept, exclusions, _ = ingest(root)
        assert root / kept["9000001", "R", 0]["source"] == paths[0]
        assert {root / knee.source for knee in exclusions} == {paths[0].with_name("002")}

    def test_a_broken_one_never_counts(self, study):
        root, paths = study
        again = paths[0].parent.with_name("1900000100") / "001"
        again.parent.mkdir()
        again.write_bytes(b"")
        kept, exclusions, _ = ingest(root)
        assert len(kept) == 6
        assert reasons(exclusions) == [("9000001", "", "empty_file")]
        assert root / exclusions[0].source == again

    def test_of_broken_ones_alone_each_knee_is_lost_once(self, study):
        root, paths = study
        again = paths[0].parent.with_name("1900000100") / "001"
        again.parent.mkdir()
        for path in (paths[0], again):
            path.write_bytes(b"")
        kept, exclusions, _ = ingest(root)
        assert len(kept) == 4
        assert sorted(knee.side for knee in exclusions) == ["", "L", "R"]
        assert {knee.reason for knee in exclusions} == {"empty_file"}


class TestSubjects:
    def test_a_header_of_another_subject_loses_the_knees(self, study):
        root, paths = study
        change(paths[0], PatientID="9000002")
        change(paths[1], PatientID="9000002")
        kept, exclusions, _ = ingest(root)
        assert len(kept) == 4
        assert reasons(exclusions) == both("9000001", "subject_contradicts")
        assert all("9000002" not in knee.detail for knee in exclusions)

    def test_a_subject_of_whom_enrolment_does_not_know(self, study):
        root, _ = study
        table = root / "tables" / "enrollees.txt"
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:3]))
        kept, _, notes = ingest(root)
        assert [kept[subject, "R", 0]["site"] for subject in SUBJECTS] == ["A", "B", ""]
        assert notes == {"subjects_unknown_to_enrolment": 1}

    def test_unless_the_rules_say_otherwise(self, study):
        root, paths = study
        change(paths[0], PatientID="a replaced id")
        assert len(ingest(root, Rules(check_subject=False))[0]) == 6

    def test_if_all_headers_do_the_remedy_is_reported(self, study):
        root, paths = study
        for number, path in enumerate(paths):
            change(path, PatientID=f"123456{number}")
        with pytest.raises(UserError, match=r"name other subjects .* oai_xray/replaced_ids"):
            ingest(root)

    def test_a_table_of_contents_does_not_vouch_for_the_subject(self, study):
        root, paths = study
        for path in paths[:2]:
            change(path, PatientID="9000003")
        rows = [
            f"{path.parent.relative_to(root / '00m').as_posix()},20041115,{contents.BILATERAL}"
            for path in paths
        ]
        table = root / "tables" / "contents.csv"
        table.write_text("\n".join(["Folder,StudyDate,SeriesDescription", *rows]))
        kept, exclusions, _ = ingest(root)
        assert len(kept) == 2
        assert {knee.reason for knee in exclusions} == {"subject_contradicts"}
        assert len(ingest(root, Rules(check_subject=False))[0]) == 6

    def test_nor_for_that_of_a_repeat_which_would_count(self, study):
        root, paths = study
        again = paths[0].parent.with_name("1900000100") / "001"
        change(paths[0], again, PatientID="9000003", StudyDate="20991231")
        rows = [
            f"{path.parent.relative_to(root / '00m').as_posix()},20041115,{contents.BILATERAL}"
            for path in [*paths, again]
        ]
        header = "Folder,StudyDate,SeriesDescription"
        table = root / "tables" / "contents.csv"
        table.write_text("\n".join([header, *rows]))
        kept, (exclusions,), _ = ingest(root)
        assert root / kept["9000001", "R", 0]["source"] == paths[0]
        assert (exclusions.side, exclusions.reason) == ("", "subject_contradicts")
        assert root / exclusions.source == again

    def test_tables_of_other_ids(self, study):
        root, _ = study
        table = root / "tables" / "kxr_sq_bu00.txt"
        table.write_text(table.read_text().replace("9000001", "8000001"))
        kept, exclusions, notes = ingest(root)
        assert kept["9000001", "R", 0]["grades"].tolist() == [-1] * 7
        assert reasons(exclusions) == both("8000001", "no_film")
        assert notes == {"filmed_subjects_in_no_table": 1}
        table.write_text(table.read_text().replace("9000", "8000"))
        with pytest.raises(UserError, match=r"none of the 3 subjects with films is in the tables"):
            ingest(root)


class TestVisits:
    @pytest.mark.parametrize(("visit", "release"), [(0, "1.C.2"), (12, "0.C.2"), (12, "10.C.2")])
    def test_a_film_in_the_folder_of_another_visit(self, study, make, visit, release):
        root, _ = study
        (root / "tables" / "kxr_sq_bu01.txt").write_text(
            make.table(12, [("9000001", side, 15, *[1] * 7) for side in (1, 2)])
        )
        film = make.write_visit(root, "9000001", 12) if visit else study[1][0]
        other = film.parents[3].with_name(release)
        other.mkdir()
        film.parents[2].rename(other / "9000001")
        _, exclusions, _ = ingest(root)
        lost = [knee for knee in exclusions if knee.visit == visit]
        assert reasons(lost) == both("9000001", "visit_contradicts")

    @pytest.mark.parametrize(
        ("barcode", "expected"), [("1.66E+10", 0), ("", 0), ("nan", 0), ("501", 6), ("9", 6)]
    )
    def test_readings_of_another_film_are_counted(self, study, barcode, expected):
        """A cell that is not a barcode is ignored; the end of a barcode is not one."""
        root, _ = study
        table = root / "tables" / "kxr_sq_bu00.txt"
        first, *lines = table.read_text().splitlines()
        rows = [f"{first}|V00BARCDBU", *(f"{line}|{barcode}" for line in lines)]
        table.write_text("\n".join(rows))
        _, _, notes = ingest(root)
        assert notes.get("readings_of_another_film", 0) == expected

    @pytest.mark.parametrize("barcode", ["0090000010001", "90000010001", "016690000010001"])
    def test_the_film_that_was_read_counts_before_a_later_one(self, study, barcode):
        root, paths = study
        first = paths[0].parent.rename(paths[0].parent.with_name("0090000010001")) / "001"
        change(first, StudyDate="20041115")
        change(first, first.parent.with_name("0090000010002") / "001", StudyDate="20041116")
        table = root / "tables" / "kxr_sq_bu00.txt"
        lines = table.read_text().splitlines()
        kept, _, _ = ingest(root)
        assert "0090000010002" in kept["9000001", "R", 0]["source"]
        barcodes = ["V00BARCDBU", barcode, barcode, "", "", "99", "99"]
        table.write_text("\n".join(map("|".join, zip(lines, barcodes))))
        kept, exclusions, notes = ingest(root)
        assert root / kept["9000001", "R", 0]["source"] == first
        assert reasons(exclusions) == both("9000001", "repeated_film")
        assert notes["readings_of_another_film"] == 2
        for film in paths[0].parents[1].glob("*/001"):
            change(film, SeriesDescription="PA Fixed Flexion Left Knee")
        kept, exclusions, _ = ingest(root)
        assert root / kept["9000001", "L", 0]["source"] == first
        assert ("9000001", "L", "repeated_film") in reasons(exclusions)


def refuse(monkeypatch, folder):
    """A folder that is not ours to list."""
    list_folder = os.scandir

    def scandir(path):
        if path == folder:
            raise PermissionError(13, "Permission denied")
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)


class TestTree:
    def test_files_and_folders_beyond_the_layout_are_counted(self, study):
        root, paths = study
        (paths[0].parent / "readme.txt").write_text("")
        (paths[0].parent / "deeper").mkdir()
        shutil.copyfile(paths[0], paths[0].parent / "deeper" / "001")
        (root / "00m" / "0.C.2" / "list.txt").write_text("")
        (root / "baseline").mkdir()
        shutil.copyfile(paths[0], root / "baseline" / "001")
        (root / "24m" / "3.C.2" / "9000001").mkdir(parents=True)
        (paths[0].parents[1] / "0555").mkdir()
        kept, exclusions, notes = ingest(root)
        assert len(kept) == 6
        assert not exclusions
        assert notes == {"other_files": 1, "files_elsewhere": 3, "empty_folders": 2}

    def test_names_with_a_suffix(self, study):
        root, paths = study
        for path in paths[0].parent.iterdir():
            path.rename(path.with_name(path.name.replace("001", "001.dcm", 1)))
        for suffix in (".pts", "_f.pts"):
            assert (paths[0].parent / f"001.dcm{suffix}").exists()
        assert len(ingest(root)[0]) == 6

    def test_a_folder_that_cannot_be_listed(self, study, monkeypatch):
        root, paths = study
        subject = paths[0].parents[2]
        refuse(monkeypatch, subject)
        kept, exclusions, _ = ingest(root)
        assert len(kept) == 4
        assert reasons(exclusions) == both("9000001", "unreadable_folder")
        assert {(root / knee.source, knee.visit) for knee in exclusions} == {(subject, 0)}
        assert {knee.detail for knee in exclusions} == {"Permission denied"}

    @pytest.mark.parametrize(
        ("level", "reason"), [(1, "unreadable_folder"), (3, "unreadable_folder"), (None, "")]
    )
    def test_other_folders_that_cannot_be_listed(self, study, monkeypatch, level, reason):
        """Of a release one row, for its subjects are not known; of one elsewhere none."""
        root, paths = study
        elsewhere = root / "elsewhere"
        elsewhere.mkdir()
        refused = elsewhere if level is None else [*paths[0].parents][level]
        refuse(monkeypatch, refused)
        if level == 3:
            with pytest.raises(UserError, match=r"no films are here.*1 unreadable_folder"):
                ingest(root)
            return
        kept, exclusions, notes = ingest(root)
        assert {knee.reason for knee in exclusions} == {reason} - {""}
        assert len(kept) == 6 - len(exclusions)
        assert notes.get("unreadable_folders_elsewhere", 0) == (level is None)

    def test_a_link_to_nothing(self, study):
        root, paths = study
        paths[0].unlink()
        paths[0].symlink_to("nothing")
        _, exclusions, _ = ingest(root)
        assert reasons(exclusions) == both("9000001", "unreadable")

    def test_a_visit_that_is_linked_from_within(self, study):
        root, _ = study
        before, _, _ = ingest(root)
        (root / "A_disk").mkdir()
        (root / "00m").rename(root / "A_disk" / "00m")
        (root / "00m").symlink_to(root / "A_disk" / "00m")
        kept, exclusions, notes = ingest(root)
        assert list(kept) == list(before)
        assert not exclusions
        assert notes == {"folders_linked_twice": 1, "empty_folders": 1}

    @pytest.mark.parametrize("level", range(1, 4))
    def test_a_folder_that_is_linked_from_a_store_beside_it(self, study, level):
        root, paths = study
        before, _, _ = ingest(root)
        folder = [*paths[0].parents][level]
        store = folder.parent / "a_store"
        store.mkdir()
        folder.rename(store / folder.name)
        folder.symlink_to(store / folder.name)
        kept, exclusions, _ = ingest(root)
        assert list(kept) == list(before)
        assert not exclusions

    @pytest.mark.parametrize("level", range(4))
    def test_folders_that_are_named_otherwise_may_name_somebody(self, study, level):
        root, paths = study
        folder = [*paths[0].parents][level]
        folder.rename(folder.with_name("Doe_Jane_3Feb1961"))
        if level == 3:
            with pytest.raises(UserError, match=r"no films are here.*3 files_elsewhere"):
                ingest(root)
            return
        _, exclusions, notes = ingest(root)
        assert reasons(exclusions) == both("9000001", "no_film")
        assert notes == {"files_elsewhere": 1}

    def test_subjects_on_another_disk(self, study, tmp_path_factory):
        root, paths = study
        elsewhere = tmp_path_factory.mktemp("disk") / "9000001"
        before, _, _ = ingest(root)
        shutil.move(paths[0].parents[2], elsewhere)
        paths[0].parents[2].symlink_to(elsewhere)
        kept, _, _ = ingest(root)
        assert [k["source"] for k in kept.values()] == [k["source"] for k in before.values()]

    def test_no_films_says_what_was_seen(self, study):
        root, paths = study
        for path in paths:
            change(path, SeriesDescription="AP Pelvis")
        with pytest.raises(UserError, match=r"no films are here.*3 other_films_ap_pelvis"):
            ingest(root)


class TestContents:
    def test_a_table_tells_what_the_headers_tell(self, tmp_path):
        made = write_study(tmp_path, num_subjects=4, visits=(0,), rows=512, progress=False)
        films = [tmp_path / source for source in made["source"].unique()]
        clutter.add_rescan(films[0])
        clutter.add_other_films(films[1])
        clutter.separate_knees(films[2])
        of_headers = ingest(tmp_path)
        assert collections.Counter(k.reason for k in of_headers[1]) == {"repeated_film": 2}
        everything = sorted(tmp_path.rglob("001"))
        clutter.write_contents(tmp_path, everything)
        _same(ingest(tmp_path), of_headers)
        # What the table leaves out, headers tell.
        clutter.write_contents(tmp_path, everything[::2])
        _same(ingest(tmp_path), of_headers)

    def test_no_header_is_read_of_other_films_that_it_names(self, study, monkeypatch):
        root, paths = study
        rows = [
            f"{path.parent.relative_to(root / '00m').as_posix()},20041115,{series}"
            for path, series in zip(paths, ["Bilateral PA Fixed Flexion Knee"] * 2 + ["AP Pelvis"])
        ]
        table = root / "tables" / "contents.csv"
        table.write_text("\n".join(["Folder,StudyDate,SeriesDescription", *rows]))
        asked = []
        read = HeaderLoader.read
        monkeypatch.setattr(
            HeaderLoader,
            "read",
            lambda self, root, paths: asked.extend(paths) or read(self, root, paths),
        )
        kept, exclusions, notes = ingest(root)
        # Of whom the films of interest are, no table vouches for.
        assert [root / path for path in asked] == paths[:2]
        assert len(kept) == 4
        assert reasons(exclusions) == both("9000003", "no_film")
        assert notes == {"other_films_ap_pelvis": 1}

    def test_rows_of_folders_that_are_not_the_layout_s(self, study):
        root, _ = study
        (root / "tables" / "contents.csv").write_text(
            f"Folder,StudyDate,SeriesDescription\n0.C.2/9000001/Doe/1,,{contents.BILATERAL}\n"
        )
        kept, exclusions, notes = ingest(root)
        assert len(kept) == 6
        assert not exclusions
        assert notes == {"listed_elsewhere": 1}

    def test_what_the_disk_lacks_is_reported(self, study):
        root, paths = study
        rows = ["ID,SIDE,READPRJ,KLG,Visit,Folder,StudyDate,Barcode"]
        for path in paths:
            folder = path.parent.relative_to(root / "00m").as_posix()
            rows += [f"9,{side},15,1,00m,{folder},20041115,1" for side in (1, 2)]
        rows.append("9,1,15,1,12m,1.C.2/9000001/20051115/0777,20051115,1")
        (root / "tables" / "OAI_summary.csv").write_text("\n".join(rows))
        shutil.rmtree(paths[0].parent)
        kept, exclusions, notes = ingest(root)
        assert len(kept) == 4
        assert reasons(exclusions) == both("9000001", "not_on_disk")
        assert {root / knee.source for knee in exclusions} == {paths[0].parent}
        assert notes == {"empty_folders": 1, "listed_of_visits_without_images": 1}


def _same(one, other):
    for a, b in zip(one, other):
        assert list(a) == list(b)
    for knee, example in one[0].items():
        assert example["source"] == other[0][knee]["source"]
        np.testing.assert_array_equal(example["image"], other[0][knee]["image"])


def test_kept_headers_change_nothing(study, tmp_path_factory):
    root, paths = study
    change(paths[0], PatientID="Doe^Jane")
    change(paths[1], SeriesDescription="PA Fixed Flexion Left Knee")
    paths[2].write_bytes(b"")
    fresh = ingest(root)
    loader = HeaderLoader(tmp_path_factory.mktemp("inventories"))
    for _ in range(2):
        found = ingest(root, loader=loader)
        _same(found, fresh)
        assert found[1:] == fresh[1:]
