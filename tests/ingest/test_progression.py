import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knee_jax.errors import UserError
from knee_jax.ingest import progression
from knee_jax.ingest.inventory import Reading
from knee_jax.ingest.progression import (
    FAST,
    FAST_UNTIL,
    NONE,
    REASONS,
    SLOW,
    UNKNOWN,
    VISITS,
    exclusions,
    label_progression,
    read_replacements,
    tidy,
)

KNEE = ("1", "R")
COLUMNS = ["subject", "side", "visit", "kl", "prosthesis"]


def rows_of(story, subject="1", side="R", visits=VISITS):
    """A knee's story, a character a visit: a grade, P prosthesis, . missing, - no row at all."""
    return [
        (subject, side, visit, int(c) if c.isdigit() else -1, c == "P")
        for visit, c in zip(visits, story, strict=True)
        if c != "-"
    ]


def table_of(stories, visits=VISITS):
    rows = [row for knee, story in stories.items() for row in rows_of(story, *knee, visits)]
    types = {"visit": int, "kl": int, "prosthesis": bool}
    return pd.DataFrame(rows, columns=COLUMNS).astype(types)


def label(story, other="------", **arguments):
    """Progression, month and reason of the right knee whose left one is `other`."""
    table = table_of({KNEE: story, ("1", "L"): other})
    labels, _ = label_progression(table, **arguments)
    row = labels[labels["side"] == "R"].iloc[0]
    return row["progression"], row["month"], row["reason"]


# Months 0, 12, 24, 36, 72, 96: the knee, the other knee, what comes of it and why.
STORIES = [
    ("000000", "------", (NONE, -1, ""), "never worse"),
    ("011111", "------", (NONE, -1, ""), "0 to 1 is no progression"),
    ("012222", "------", (FAST, 24, ""), "but 0 to 2 is, once it is there"),
    ("001112", "------", (SLOW, 96, ""), "0 to 1 at 36 months does not make it fast"),
    ("112222", "------", (FAST, 24, ""), "1 to 2 counts"),
    ("222333", "------", (FAST, 36, ""), "at month 36, the last of the fast"),
    ("222233", "------", (SLOW, 72, ""), "at month 72, the first of the slow, as the code has it"),
    ("222223", "------", (SLOW, 96, ""), "at the last visit"),
    ("333334", "------", (SLOW, 96, ""), "3 to 4"),
    ("343333", "------", (FAST, 12, ""), "the first visit decides, though it is taken back"),
    ("323232", "------", (NONE, -1, ""), "lower grades are no progression"),
    ("211112", "------", (NONE, -1, ""), "compared with the baseline, not the visit before"),
    ("2P----", "------", (FAST, 12, ""), "replaced within a year, then no films"),
    ("3333PP", "------", (SLOW, 72, ""), "replaced between 36 and 72 months, seen at 72"),
    ("0----P", "------", (SLOW, 96, ""), "replaced by the last visit"),
    ("1.1111", "------", (NONE, -1, ""), "a poor film is not a visit"),
    ("1....2", "------", (SLOW, 96, ""), "four poor films, then a worse grade"),
    ("1-2---", "------", (FAST, 24, ""), "a progressor need not be seen at the end"),
    ("2222--", "------", (UNKNOWN, -1, "lost_to_follow_up"), "neither worse nor seen at the end"),
    ("22222-", "---2-2", (NONE, -1, ""), "the other knee was seen at the end"),
    ("22222-", "-----P", (NONE, -1, ""), "the other knee was seen, though replaced"),
    ("22222.", "------", (UNKNOWN, -1, "lost_to_follow_up"), "a row without a reading is no visit"),
    ("22222.", "-----.", (UNKNOWN, -1, "lost_to_follow_up"), "nor are two of them"),
    ("22222.", "-----0", (NONE, -1, ""), "read in the other knee only"),
    ("0-----", "-----0", (NONE, -1, ""), "nobody looked at this knee again: as published"),
    ("400000", "------", (UNKNOWN, -1, "baseline_kl4"), "4 cannot grow"),
    ("4P----", "------", (UNKNOWN, -1, "baseline_kl4"), "even if it is replaced"),
    (".22223", "------", (UNKNOWN, -1, "baseline_unread"), "no grade to compare with"),
    ("P-----", "------", (UNKNOWN, -1, "prosthesis"), "replaced at baseline"),
    ("-22223", "------", (UNKNOWN, -1, "no_baseline"), "no row at baseline"),
]


@pytest.mark.parametrize(("story", "other", "expected", "why"), STORIES)
def test_stories(story, other, expected, why):
    assert label(story, other) == expected, why


PUBLISHED = [
    ("1.1111", "------", (FAST, 12, ""), "a poor film is taken for a replacement"),
    ("1...12", "------", (FAST, 12, ""), "the first of them"),
    ("2222.3", "------", (SLOW, 72, ""), "also at month 72"),
    ("22222.", "------", (SLOW, 96, ""), "also at the last visit"),
    ("2P----", "------", (FAST, 12, ""), "real replacements are among them"),
    ("22222-", "-----.", (NONE, -1, ""), "a row of the other knee is enough to be seen"),
    ("22222-", "------", (UNKNOWN, -1, "lost_to_follow_up"), "no row at all is not a missing one"),
    (".22223", "------", (UNKNOWN, -1, "baseline_unread"), "at baseline, missing is missing"),
    ("4.2223", "------", (UNKNOWN, -1, "baseline_kl4"), "4 is still left out"),
]


@pytest.mark.parametrize(("story", "other", "expected", "why"), PUBLISHED)
def test_published_rule(story, other, expected, why):
    assert label(story, other, rule="published") == expected, why


class TestSwitches:
    def test_knee_itself_must_be_seen(self):
        assert label("22222-", "-----2", follow_up="knee")[2] == "lost_to_follow_up"
        assert label("22222.", "-----2", follow_up="knee")[2] == "lost_to_follow_up"
        assert label("2----2", "------", follow_up="knee") == (NONE, -1, "")
        assert label("23----", "------", follow_up="knee") == (FAST, 12, "")

    def test_cut_off_between_fast_and_slow(self):
        assert label("222233", fast_until=72)[0] == FAST  # As the paper's text has it.
        assert label("222333", fast_until=35)[0] == SLOW

    def test_visits(self):
        with_48 = (0, 12, 24, 36, 48, 72, 96)
        table = table_of({KNEE: "2222322"}, with_48)
        labels, counts = label_progression(table)
        assert labels["progression"].tolist() == [NONE]
        assert counts["readings_of_other_visits"] == 1
        labels, counts = label_progression(table, visits=with_48)
        assert (labels["progression"].iloc[0], labels["month"].iloc[0]) == (FAST, 48)
        assert counts["readings_of_other_visits"] == 0

    def test_another_baseline_and_end(self):
        table = table_of({KNEE: "012223"})
        labels, _ = label_progression(table, visits=(24, 36, 72, 96))
        assert labels[["kl", "progression", "month"]].iloc[0].tolist() == [2, SLOW, 96]
        labels, _ = label_progression(table, visits=(24, 36, 72))
        assert labels[["kl", "progression", "month"]].iloc[0].tolist() == [2, NONE, -1]

    @pytest.mark.parametrize(
        ("story", "month", "expected"),
        [
            ("222---", 60, (FAST, 60, "")),
            ("222---", 84, (SLOW, 84, "")),
            ("22---2", 12, (FAST, 12, "")),
            ("2-3---", 60, (FAST, 24, "")),
            ("22222-", 108, (UNKNOWN, -1, "lost_to_follow_up")),
            ("222222", 108, (NONE, -1, "")),
            ("222222", 0, (UNKNOWN, -1, "prosthesis")),
            ("-222--", 60, (UNKNOWN, -1, "no_baseline")),
            ("4-----", 60, (UNKNOWN, -1, "baseline_kl4")),
        ],
    )
    def test_replacements(self, story, month, expected):
        table = pd.DataFrame({"subject": ["1", "9"], "side": ["R", "L"], "visit": [month, 12]})
        assert label(story, replacements=table) == expected

    def test_replacement_of_the_other_knee_is_nothing_to_this_one(self):
        table = pd.DataFrame({"subject": ["1"], "side": ["L"], "visit": [24]})
        assert label("222222", "22----", replacements=table) == (NONE, -1, "")


def test_account_counts_every_knee_and_row():
    table = table_of(
        {
            ("1", "R"): "000000",
            ("1", "L"): "122222",
            ("2", "R"): "2222-3",
            ("2", "L"): "4-----",
            ("3", "R"): "0-----",
        }
    )
    again = table[(table["subject"] == "1") & (table["visit"] == 12)].assign(kl=4)
    later = pd.DataFrame([("5", "R", 48, 1, False)], columns=COLUMNS)
    replacements = pd.DataFrame(
        {"subject": ["2", "8", "3"], "side": ["R", "L", "R"], "visit": [108, 24, 120]}
    )
    table = pd.concat([table, again, later], ignore_index=True)
    labels, counts = label_progression(table, replacements=replacements)
    assert counts == {
        "knees": 6,
        "none": 1,
        "fast": 1,
        "slow": 1,
        "no_baseline": 1,
        "prosthesis": 0,
        "baseline_unread": 0,
        "baseline_kl4": 1,
        "lost_to_follow_up": 1,
        "duplicate_readings": 2,
        "readings_of_other_visits": 1,
        "replacements_after_the_last_visit": 2,
        "replacements_of_other_knees": 1,
    }
    assert labels["subject"].tolist() == ["1", "1", "2", "2", "3", "5"]
    assert labels["side"].tolist() == ["L", "R", "L", "R", "R", "R"]
    assert labels["kl"].tolist() == [1, 0, 4, 2, 0, -1]
    assert [(k.subject, k.side, k.visit, k.reason) for k in exclusions(labels)] == [
        ("2", "L", 0, "baseline_kl4"),
        ("3", "R", 0, "lost_to_follow_up"),
        ("5", "R", 0, "no_baseline"),
    ]


def one_by_one(stories, rule, seen):
    """The rules again, a knee and a visit at a time, after the description of the published code.

    Visits have indices; a progression at the indices 1 to 3 is fast, at 4 and 5 slow.
    """
    results = {}
    for (subject, side), story in stories.items():
        start = story[0]
        if set(story) == {"-"}:
            continue
        if not start.isdigit() or start == "4":
            results[subject, side] = UNKNOWN
            continue
        index = 0
        for i, now in enumerate(story):
            if i == 0 or now == "-":
                continue
            lost = now == "P" or (now == "." and rule == "published")
            if lost or (now.isdigit() and int(now) != 1 and int(now) > int(start)):
                index = i
                break
        if index:
            results[subject, side] = FAST if index <= 3 else SLOW
            continue
        people = {s for s in "LR" if seen == "subject" or s == side}
        ends = {stories[subject, s][-1] for s in people if (subject, s) in stories}
        nothing = {"-"} if rule == "published" else {"-", "."}
        results[subject, side] = NONE if ends - nothing else UNKNOWN
    return results


stories_of_knees = st.dictionaries(
    st.tuples(st.sampled_from("12345678"), st.sampled_from("LR")),
    st.text("01234P.-", min_size=6, max_size=6),
    min_size=4,
)


@settings(max_examples=80, deadline=None)
@given(
    stories_of_knees, st.sampled_from(("coded", "published")), st.sampled_from(("subject", "knee"))
)
def test_as_one_by_one(stories, rule, seen):
    labels, counts = label_progression(table_of(stories), rule=rule, follow_up=seen)
    found = dict(zip(zip(labels["subject"], labels["side"]), labels["progression"]))
    assert found == one_by_one(stories, rule, seen)
    # Every knee has either a label or a reason, and the counts says how many have which.
    has_label, has_reason = labels["progression"] != UNKNOWN, labels["reason"] != ""
    assert (has_label ^ has_reason).all()
    assert counts["knees"] == len(labels)
    assert counts["none"] + counts["fast"] + counts["slow"] == has_label.sum()
    assert sum(counts[reason] for reason in REASONS) == has_reason.sum()
    # Only progressions have a month, which is on the side of the cut-off that the label says.
    assert (labels.loc[labels["progression"].isin([NONE, UNKNOWN]), "month"] == -1).all()
    assert labels.loc[labels["progression"] == FAST, "month"].between(1, FAST_UNTIL).all()
    assert (labels.loc[labels["progression"] == SLOW, "month"] > FAST_UNTIL).all()
    assert labels.loc[has_label, "kl"].between(0, 3).all()


@settings(max_examples=12, deadline=None)
@given(stories_of_knees, st.randoms(use_true_random=False))
def test_the_order_of_rows_plays_no_part(stories, random):
    table = table_of(stories)
    order = list(range(len(table)))
    random.shuffle(order)
    first, _ = label_progression(table)
    second, _ = label_progression(table.iloc[order])
    pd.testing.assert_frame_equal(first, second)


@settings(max_examples=12, deadline=None)
@given(stories_of_knees)
def test_a_knee_does_not_hang_on_other_subjects(stories):
    together, _ = label_progression(table_of(stories))
    alone = [
        label_progression(table_of({k: s for k, s in stories.items() if k[0] == subject}))[0]
        for subject in sorted({subject for subject, _ in stories})
    ]
    pd.testing.assert_frame_equal(together, pd.concat(alone, ignore_index=True))


@settings(max_examples=12, deadline=None)
@given(stories_of_knees)
def test_rules_differ_only_where_a_reading_is_missing(stories):
    complete = {knee: story.replace(".", "-") for knee, story in stories.items()}
    first, _ = label_progression(table_of(complete))
    second, _ = label_progression(table_of(complete), rule="published")
    pd.testing.assert_frame_equal(first, second)


class TestTables:
    def test_tidy(self):
        grades = np.array([2, 1, 0, 0, 0, 0, 1], np.int8)
        lost = np.full(7, -1, np.int8)
        table = tidy(
            {
                ("1", "R", 0): Reading(grades),
                ("1", "R", 12): Reading(lost, "prosthesis", "read as .P"),
                ("1", "L", 0): Reading(lost),
                ("2", "L", 0): Reading(lost, "prosthesis_or_unreadable", "coded 8"),
            }
        )
        assert table.columns.tolist() == COLUMNS
        assert table["kl"].tolist() == [2, -1, -1, -1]
        assert table["prosthesis"].tolist() == [False, True, False, False]
        labels, _ = label_progression(table)
        right = labels[labels["side"] == "R"].iloc[0]
        assert (right["progression"], right["month"]) == (FAST, 12)
        assert tidy({}).columns.tolist() == COLUMNS

    def test_replacements_of_oai(self, tmp_path):
        text = (
            "id|V99ELKVSRP|V99ERKVSRP\n"
            "9000099|.: Missing Form/Incomplete Workbook|7: 60-month\n"
            "9000296|3: 24-month|10: 96-month\n"
            "9000622|.|.\n"
        )
        (tmp_path / "Outcomes99.txt").write_text(text)
        found = read_replacements(tmp_path)
        assert list(found.itertuples(index=False, name=None)) == [
            ("9000099", "R", 60),
            ("9000296", "L", 24),
            ("9000296", "R", 96),
        ]

    def test_a_visit_that_is_none(self, tmp_path):
        (tmp_path / "outcomes99.txt").write_text("ID|V99ELKVSRP|V99ERKVSRP\n1|13|.\n")
        with pytest.raises(UserError, match="V99ELKVSRP holds 13"):
            read_replacements(tmp_path)

    def test_no_table(self, tmp_path):
        with pytest.raises(UserError, match=r"outcomes99\.txt or oai_outcome01\.txt is missing"):
            read_replacements(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "strict"}, "choose coded or published"),
        ({"follow_up": "both"}, "choose subject or knee"),
        ({"visits": (0,)}, "two or more ascending months"),
        ({"visits": (0, 24, 12)}, "two or more ascending months"),
        ({"replacements": pd.DataFrame({"subject": []})}, "lacks the columns side, visit"),
        (
            {
                "replacements": pd.DataFrame({"subject": [], "side": [], "visit": []}),
                "rule": "published",
            },
            "knows no table of replacements",
        ),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        label_progression(table_of({KNEE: "000000"}), **arguments)


def test_strange_tables_are_named():
    table = table_of({KNEE: "000000"})
    with pytest.raises(UserError, match="lacks the columns kl"):
        label_progression(table.drop(columns="kl"))
    with pytest.raises(UserError, match="KL 8 is not of the scale"):
        label_progression(table.replace({"kl": {0: 8}}))


def test_nobody():
    labels, counts = label_progression(table_of({}))
    assert labels.empty
    assert counts["knees"] == 0


@pytest.mark.real
class TestPublishedLabels:
    """3,672 published labels of knees that are in kneekl224 too."""

    def test_against_the_films_grades(self, real_data):
        published = pd.read_csv(real_data / "progression_labels.csv", dtype={"ID": str})
        counts = published["Progressor"].value_counts()
        assert counts[[NONE, FAST, SLOW]].tolist() == [2715, 677, 280]
        assert not published.duplicated(["ID", "Side"]).any()
        assert published["KL"].between(0, 3).all()
        crops = [
            (path.name[:7], path.name[7], int(path.parent.name))
            for path in (real_data / "kneekl224").glob("*/*/*.png")
        ]
        films = pd.DataFrame(crops, columns=["ID", "Side", "film"])
        joined = published.merge(films, on=["ID", "Side"], validate="one_to_one")
        assert len(joined) == len(published)
        # Of the same visit, but not always of the same reading.
        assert (joined["KL"] == joined["film"]).mean() > 0.99

    def test_a_story_that_would_give_each_label_does(self, real_data):
        """The readings have only the increase of the grade; 5 stands for a missing one."""
        published = pd.read_csv(real_data / "progression_labels.csv", dtype={"ID": str})
        stories = {}
        for row in published.itertuples():
            end = str(row.KL + row.Prog_increase).replace("5", ".")
            story = {NONE: "-----{0}", FAST: "---{1}--", SLOW: "----{1}-"}[row.Progressor]
            stories[row.ID, row.Side] = str(row.KL) + story[1:].format(row.KL, end)
        labels, counts = label_progression(table_of(stories), rule="published")
        found = labels.set_index(["subject", "side"])["progression"]
        expected = published.set_index(["ID", "Side"])["Progressor"]
        assert (found.loc[expected.index].to_numpy() == expected.to_numpy()).all()
        assert [counts[name] for name in ("none", "fast", "slow")] == [2715, 677, 280]
        # Whatever grew, grew to a grade that counts.
        grown = published[published["Prog_increase"] > 0]
        assert ((grown["KL"] + grown["Prog_increase"]).between(2, 5)).all()
        assert (published["Prog_increase"].eq(0) == published["Progressor"].eq(NONE)).all()


class TestReadLabels:
    TABLE = (
        "id,Side,KL,Prog_increase,progressor\n9000099,L,3,1,1\n9000099,R,0,2,2\n9000100,r,1,0,0\n"
    )

    def read(self, tmp_path, text):
        (tmp_path / "labels.csv").write_text(text)
        return progression.read_labels(tmp_path / "labels.csv")

    def test_published_columns_in_any_case(self, tmp_path):
        assert self.read(tmp_path, self.TABLE) == {
            ("9000099", "L"): (3, 1),
            ("9000099", "R"): (0, 2),
            ("9000100", "R"): (1, 0),
        }

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (("progressor", "label"), "the column PROGRESSOR is missing"),
            (("Side", "Knee"), "the column SIDE is missing"),
            (("3,1,1", "3,1,3"), "row 1 has SIDE L, KL 3, PROGRESSOR 3; Side must be L or R"),
            (("3,1,1", "3,1,"), "row 1 has"),
            (("3,1,1", "3,1,0.5"), "row 1 has .*PROGRESSOR 0.5"),
            (("0,2,2", "5,2,2"), "row 2 has SIDE R, KL 5"),
            (("L,3", "B,3"), "row 1 has SIDE B"),
            (("L,3", "R,0"), "9000099 R has several rows"),
            (("L,3,1,1", "R,0,2,2"), "9000099 R has several rows"),
            (("3,1,1", "3,1,fast"), "row 1 of column .* holds neither a number"),
        ],
    )
    def test_tables_that_cannot_be_used(self, tmp_path, change, message):
        with pytest.raises(UserError, match=message):
            self.read(tmp_path, self.TABLE.replace(*change))
