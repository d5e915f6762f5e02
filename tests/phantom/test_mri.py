import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from knee_jax.ingest import enrolment, progression, readings
from knee_jax.ingest.series import read_volume
from knee_jax.ingest.volume import Preparation, VolumeFile, VolumeJob
from knee_jax.phantom import dicom, mri, severity
from knee_jax.phantom.study import write_study

SHAPE = (48, 48, 20)
SMALL = Preparation(shape=SHAPE, border=2)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("mri")
    return root, mri.write_mri_study(root, num_subjects=12, seed=4, shape=SHAPE, progress=False)


@pytest.mark.parametrize("side", "LR")
@pytest.mark.parametrize("turn", [0.0, 0.1])
def test_a_series_is_read_as_it_was_drawn(tmp_path, side, turn):
    volume = np.random.default_rng(0).integers(0, 4096, (5, 6, 8), np.uint16)
    header = dicom.SeriesHeader("9000099", "01", "20040501", "Maker", side, (0.4, 0.3, 0.7), turn)
    dicom.write_series(tmp_path / "01", volume, header)
    found = read_volume(tmp_path / "01")
    np.testing.assert_array_equal(found.voxels, volume.transpose(1, 2, 0))
    assert found.side == side
    assert found.spacing_mm == pytest.approx((0.4, 0.3, 0.7), abs=1e-3)


def test_every_knee_passes_the_ingest(study):
    root, knees = study
    assert len(knees) == 24
    assert set(knees["site"]) <= set("ABCDE")
    for row in knees.itertuples():
        file = VolumeFile(row.subject, row.side, 0, "phantom", row.site, row.source, -1, -1)
        (knee,) = VolumeJob(root, file, SMALL)()
        assert not row.cut_short
        assert knee["volume"].shape == SMALL.result_shape
        np.testing.assert_allclose(
            knee["spacing_mm"], 2 * np.array([140 / 48, 140 / 48, 5.6]), rtol=1e-3
        )


def test_series_of_which_slices_were_lost_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(mri, "_CUT_SHORT", 1.0)
    knees = mri.write_mri_study(tmp_path, num_subjects=1, shape=SHAPE, progress=False)
    for row in knees.itertuples():
        file = VolumeFile(row.subject, row.side, 0, "phantom", row.site, row.source, -1, -1)
        (knee,) = VolumeJob(tmp_path, file, SMALL)()
        assert knee.reason == "wrong_shape"


def labels_of(tables):
    read, _ = readings.read_readings(tables, list(readings.VISITS))
    return progression.label_progression(progression.tidy(read))


def test_the_tables_tell_who_progresses(study):
    root, knees = study
    labels, counts = labels_of(root / "tables")
    assert counts["none"] + counts["fast"] + counts["slow"] >= 12
    assert counts["none"] > 0
    assert counts["fast"] + counts["slow"] > 0
    assert enrolment.read_sites(root / "tables") == dict(zip(knees["subject"], knees["site"]))
    known = set(zip(knees["subject"], knees["side"]))
    assert set(zip(labels["subject"], labels["side"])) <= known


def test_films_of_the_same_seed_are_of_the_same_subjects(study, tmp_path):
    _, knees = study
    films = write_study(tmp_path, num_subjects=12, visits=[0], seed=4, rows=64, progress=False)
    for column in ("subject", "side", "site", "read_kl", "spur_ostm", "lost_jsm"):
        assert films[column].tolist() == knees[column].tolist()


def test_the_same_seed_gives_the_same_bytes(study, tmp_path):
    root, knees = study
    mri.write_mri_study(tmp_path, num_subjects=2, seed=4, shape=SHAPE, progress=False)
    files = [f for source in knees["source"][:4] for f in sorted((root / source).iterdir())]
    assert len(files) == 4 * SHAPE[2]
    for file in files:
        assert (tmp_path / file.relative_to(root)).read_bytes() == file.read_bytes()


def test_a_lesion_tells_of_the_pace():
    knees = severity.simulate(3000, visits=[0], seed=3)
    found = mri.findings(knees, 3)
    visible = found["lesion_mm"] > 0
    shown = np.corrcoef(found["lesion_mm"][visible], knees["pace"][visible])[0, 1]
    assert 0.65 < shown < 0.8
    assert 0.6 < visible.mean() < 0.9
    assert 0.001 < found["cut_short"].mean() < 0.01
    # The lesion says nothing of the bones.
    assert abs(np.corrcoef(found["lesion_mm"], knees["lost_jsm"])[0, 1]) < 0.04


@pytest.mark.long
def test_how_well_progression_can_be_told_from_what_is_drawn():
    """Figures for the documentation, from a booster that gets the truth that is drawn."""

    def cohort(num_subjects, seed):
        knees = severity.simulate(num_subjects, seed=seed)
        knees["subject"] = knees["number"].astype(str)
        read = knees[knees["code"] != "U"].assign(
            kl=lambda rows: rows["read_kl"].astype(int),
            prosthesis=lambda rows: rows["code"].eq("P"),
        )
        labels, _ = progression.label_progression(read)
        first = knees[knees["visit"] == 0].reset_index(drop=True)
        first = first.join(mri.findings(first, seed)).merge(labels, on=["subject", "side"])
        return first[first["progression"] >= 0]

    train, test = cohort(12000, 1), cohort(4000, 2)
    bones = [c for c in train if c.startswith(("spur_", "lost_"))]
    scores = {}
    for name, columns in {
        "films": bones,
        "volumes": [*bones, "lesion_mm", "medial", "effusion"],
        "all": [*bones, "pace"],
    }.items():
        model = HistGradientBoostingClassifier(learning_rate=0.05, max_iter=200, max_leaf_nodes=15)
        model.fit(train[columns], train["progression"] > 0)
        chance = model.predict_proba(test[columns])[:, 1]
        scores[name] = roc_auc_score(test["progression"] > 0, chance)
    assert scores["films"] == pytest.approx(0.736, abs=0.015)
    assert scores["volumes"] == pytest.approx(0.825, abs=0.015)
    assert scores["all"] == pytest.approx(0.88, abs=0.015)
