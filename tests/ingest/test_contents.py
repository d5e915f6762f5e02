import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.contents import BILATERAL, read_contents
from knee_jax.ingest.headers import Header

CONTENTS = """\
ParticipantID,Folder,StudyDate,Barcode,StudyDescription,SeriesDescription
9000099,0.E.1/9000099/20050531/00839603,20050531,00839603,OAI^KNEE,Bilateral PA Fixed Flexion Knee
9000099,0.E.1/9000099/20050531/00839604,20050531,00839604,OAI^HAND, PA Right Hand
9000099,10.C.2/9000099/20130531/00839605,20130531,00839605,OAI^KNEE,SAG_3D_DESS_LEFT
9000099,10.C.2/9000099/20130531/00839606,20130531,00839606,OAI^KNEE,
"""
SUMMARY = """\
ID,SIDE,READPRJ,KLG,Visit,Folder,StudyDate,Barcode
9000099,1,15,2.0,00m,0.E.1/9000099/20050531/00839603,20050531,839603
9000099,2,15,3.0,00m,0.E.1/9000099/20050531/00839603,20050531,839603
9000296,1,15,2.0,18m,2.D.2/9000296/20040729/00175004,20040729,175004
"""


def test_table_of_contents(tmp_path):
    (tmp_path / "Contents.csv").write_text(CONTENTS)
    assert read_contents(tmp_path) == {
        "00m/0.E.1/9000099/20050531/00839603": Header(description=BILATERAL, taken="20050531"),
        "00m/0.E.1/9000099/20050531/00839604": Header(
            description="PA Right Hand", taken="20050531"
        ),
        "96m/10.C.2/9000099/20130531/00839605": Header(
            description="SAG_3D_DESS_LEFT", taken="20130531"
        ),
    }


def test_list_of_readings(tmp_path):
    (tmp_path / "OAI_summary.csv").write_text(SUMMARY)
    assert read_contents(tmp_path) == {
        "00m/0.E.1/9000099/20050531/00839603": Header(description=BILATERAL, taken="20050531"),
        "18m/2.D.2/9000296/20040729/00175004": Header(description=BILATERAL, taken="20040729"),
    }


def test_several_tables_and_none(tmp_path):
    assert read_contents(tmp_path / "nowhere") == read_contents(tmp_path) == {}
    (tmp_path / "contents_00m.csv").write_text(CONTENTS.replace("Right", "Left"))
    (tmp_path / "contents_96m.csv").write_text(CONTENTS)
    (tmp_path / "oai_summary.csv").write_text(SUMMARY)
    found = read_contents(tmp_path)
    assert len(found) == 4
    # The first row of a folder counts.
    assert found["00m/0.E.1/9000099/20050531/00839604"].description == "PA Left Hand"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CONTENTS.replace("SeriesDescription", "Series"), "no column seriesdescription"),
        (CONTENTS.replace("Folder", "Path"), "no column folder"),
        (CONTENTS.replace("10.C.2/", "7.C.2/"), r"row 3: the folder is not .*release such as"),
        (CONTENTS.replace("0.E.1/9000099", "0.E.1"), r"contents\.csv, row 1: the folder"),
        (CONTENTS.replace("9000099,0", "9000098,0"), "row 1: another subject than its folder's"),
        (CONTENTS.replace("20050531,008", "31/05/2005,008"), "row 1: StudyDate is no date such as"),
        ("", "is empty"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "contents.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_contents(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        SUMMARY.replace("18m", "12m"),
        SUMMARY.replace(",00m,", ",V00,"),
    ],
)
def test_visits_that_are_not_their_folder_s(tmp_path, text):
    (tmp_path / "oai_summary.csv").write_text(text)
    with pytest.raises(UserError, match=r"row \d: the visit is not that of its folder's release"):
        read_contents(tmp_path)


@pytest.mark.parametrize("date", ["2005-05-31", "05/31/2005", "31MAY2005"])
def test_dates_in_whatever_form_can_be_compared(tmp_path, date):
    (tmp_path / "contents.csv").write_text(CONTENTS.replace(",20050531,008", f",{date},008"))
    header = read_contents(tmp_path)["00m/0.E.1/9000099/20050531/00839603"]
    assert header.taken == "20050531"
