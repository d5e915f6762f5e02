import numpy as np
import pytest

from knee_jax import sharding
from knee_jax.data import batches, prepared, sampling, statistics
from knee_jax.errors import UserError
from knee_jax.grades import GRADES


@pytest.fixture(scope="module")
def knees(tiny_data_dir):
    return prepared.open_set(tiny_data_dir / "phantom_xray" / "tiny" / "1.0.0")


@pytest.fixture(scope="module")
def volumes(tiny_mri_data_dir):
    return prepared.open_set(tiny_mri_data_dir / "phantom_mri" / "tiny" / "1.0.0")


def collect(source, plan, steps, workers=0):
    return [
        {name: np.asarray(value) for name, value in batch.items()}
        for batch in source.batches(plan, steps, workers)
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["shuffled", "in_order"])
def test_resident_and_streamed_batches_are_bit_equal(knees, kind, workers):
    rows = np.arange(3, 40)
    mesh = sharding.make_mesh()
    if kind == "shuffled":
        plan, steps = sampling.shuffled(rows, 8, seed=0), range(2, 13)
    else:
        plan, steps = sampling.in_order(rows, 8), range(sampling.num_batches(len(rows), 8))
    resident = collect(batches.Resident(knees, rows, mesh), plan, steps)
    streamed = collect(batches.Streamed(knees, mesh), plan, steps, workers)
    assert len(resident) == len(streamed) == len(steps)
    for ours, theirs in zip(resident, streamed):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype
            known = ours["mask"] if name not in ("row", "mask") else slice(None)
            np.testing.assert_array_equal(ours[name][known], theirs[name][known], name)


def test_a_batch_holds_the_knees_of_its_plan(knees):
    rows = np.arange(10, 30)
    plan = sampling.shuffled(rows, 4, seed=1)
    (batch,) = collect(batches.Resident(knees, rows, sharding.make_mesh()), plan, range(3, 4))
    np.testing.assert_array_equal(batch["row"], plan(3))
    np.testing.assert_array_equal(
        batch["grades"], knees.index.iloc[plan(3)][list(GRADES)].to_numpy()
    )
    np.testing.assert_array_equal(batch["image"], knees.load(plan(3))["image"])


def test_the_index_is_in_record_order(knees):
    rows = np.arange(len(knees.index))
    np.testing.assert_array_equal(knees.load(rows)["grades"], knees.index[list(GRADES)].to_numpy())


def test_an_abandoned_stream_can_be_opened_again(knees):
    source = batches.Streamed(knees, sharding.make_mesh())
    plan = sampling.shuffled(np.arange(20), 4, seed=0)
    first = next(iter(source.batches(plan, range(10))))
    again = next(iter(source.batches(plan, range(10))))
    np.testing.assert_array_equal(first["image"], again["image"])


def test_statistics_equal_numpy(knees):
    rows = np.arange(5, 60)
    facts = statistics.measure(knees, rows)
    images = knees.load(rows)["image"] / 255
    assert facts.mean == pytest.approx(images.mean(), rel=1e-9)
    assert facts.deviation == pytest.approx(images.std(), rel=1e-6)
    for grade in GRADES:
        values = knees.index[grade].to_numpy()[rows]
        np.testing.assert_array_equal(
            facts.counts[grade], np.bincount(values[values >= 0], minlength=4 + (grade == "kl"))
        )


def test_statistics_survive_the_file(knees, tmp_path):
    facts = statistics.measure(knees, np.arange(20))
    statistics.save(facts, tmp_path / "statistics.json")
    assert statistics.load(tmp_path / "statistics.json") == facts


def test_auto_keeps_a_small_set_resident(knees):
    mesh, rows = sharding.make_mesh(), np.arange(8)
    kinds = {
        mode: type(batches.make_source(knees, rows, mesh, mode))
        for mode in ("auto", "resident", "streamed")
    }
    assert kinds == {
        "auto": batches.Resident,
        "resident": batches.Resident,
        "streamed": batches.Streamed,
    }


def test_a_folder_without_a_set_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no prepared set.*knee_jax.prepare"):
        prepared.open_set(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_resident_and_streamed_volumes_are_bit_equal(volumes, workers):
    rows, mesh = np.arange(2, 21), sharding.make_mesh()
    plan, steps = sampling.in_order(rows, 8), range(sampling.num_batches(len(rows), 8))
    resident = collect(batches.Resident(volumes, rows, mesh), plan, steps)
    streamed = collect(batches.Streamed(volumes, mesh), plan, steps, workers)
    assert len(resident) == len(streamed) == 3
    names = {"volume", "grades", "progression", "row", "mask"}
    for step, (ours, theirs) in enumerate(zip(resident, streamed)):
        assert ours.keys() == theirs.keys() == names
        known = ours["mask"]
        for name in names:
            assert ours[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(ours[name][known], theirs[name][known], name)
        chosen = plan(step)[known]
        np.testing.assert_array_equal(ours["row"][known], chosen)
        np.testing.assert_array_equal(ours["volume"][known], volumes.load(chosen)["volume"])
        expected = volumes.index["progression"].to_numpy()[chosen]
        np.testing.assert_array_equal(ours["progression"][known], expected)


def test_statistics_of_known_intensities_read_no_pixels(volumes, monkeypatch):
    monkeypatch.setattr(prepared.PreparedSet, "load", None)
    rows = np.arange(30)
    facts = statistics.measure(volumes, rows, intensities=(0.257, 0.235))
    assert (facts.mean, facts.deviation) == (0.257, 0.235)
    expected = np.bincount(volumes.index["progression"].to_numpy()[rows], minlength=3)
    np.testing.assert_array_equal(facts.counts["progression"], expected)
