import numpy as np
import pytest

from knee_jax.data import batches, prepared, sampling, statistics
from knee_jax.data.mesh import make_mesh
from knee_jax.errors import UserError
from knee_jax.targets.grades import GRADES


@pytest.fixture(scope="module")
def volumes(tiny_mri_data_dir):
    folder = tiny_mri_data_dir / "phantom_mri" / "tiny" / "1.0.0"
    return prepared.open_set(folder, ("kl", "progression"))


def collect(source, sampler, steps, workers=0):
    """Return batches as NumPy arrays, each label by its name `labels/<target>`."""
    found = []
    for batch in source.batches(sampler, steps, workers):
        labels = {f"labels/{name}": value for name, value in batch.pop("labels").items()}
        found.append({name: np.asarray(value) for name, value in (batch | labels).items()})
    return found


def assert_equal_batches(ours, theirs, names):
    """Fill-up knees may differ."""
    known = ours["mask"]
    assert ours.keys() == theirs.keys() == set(names)
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        rows = known if name not in ("row", "mask") else slice(None)
        np.testing.assert_array_equal(ours[name][rows], theirs[name][rows], name)


OTHERS = ("row", "mask")
FILM = ("image", "keypoints", "keypoints_valid", *(f"labels/{grade}" for grade in GRADES), *OTHERS)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["shuffled", "in_order"])
def test_resident_and_streamed_batches_are_bit_equal(knees, kind, workers):
    rows = np.arange(3, 40)
    mesh = make_mesh()
    if kind == "shuffled":
        sampler, steps = sampling.shuffled(rows, 8, seed=0), range(2, 13)
    else:
        sampler, steps = sampling.in_order(rows, 8), range(sampling.num_batches(len(rows), 8))
    resident = collect(batches.Resident(knees, rows, mesh), sampler, steps)
    streamed = collect(batches.Streamed(knees, mesh), sampler, steps, workers)
    assert len(resident) == len(streamed) == len(steps)
    for ours, theirs in zip(resident, streamed):
        assert_equal_batches(ours, theirs, FILM)


def test_a_batch_holds_the_knees_of_its_sampler(knees):
    rows = np.arange(10, 30)
    sampler = sampling.shuffled(rows, 4, seed=1)
    (batch,) = collect(batches.Resident(knees, rows, make_mesh()), sampler, range(3, 4))
    np.testing.assert_array_equal(batch["row"], sampler(3))
    for grade in GRADES:
        np.testing.assert_array_equal(
            batch[f"labels/{grade}"], knees.index[grade].to_numpy()[sampler(3)]
        )
    np.testing.assert_array_equal(batch["image"], knees.load(sampler(3))["image"])


def test_labels_come_in_the_order_of_the_rows(knees):
    rows = np.random.default_rng(0).permutation(len(knees.index))
    labels = knees.load(rows)["labels"]
    assert list(labels) == list(GRADES)
    for grade in GRADES:
        np.testing.assert_array_equal(labels[grade], knees.index[grade].to_numpy()[rows])


def test_an_abandoned_stream_can_be_opened_again(knees):
    source = batches.Streamed(knees, make_mesh())
    sampler = sampling.shuffled(np.arange(20), 4, seed=0)
    first = next(iter(source.batches(sampler, range(10))))
    again = next(iter(source.batches(sampler, range(10))))
    np.testing.assert_array_equal(first["image"], again["image"])


def test_statistics_equal_numpy(knees):
    rows = np.arange(5, 60)
    measured = statistics.measure(knees, rows)
    images = knees.load(rows)["image"] / 255
    assert measured.mean == pytest.approx(images.mean(), rel=1e-9)
    assert measured.std == pytest.approx(images.std(), rel=1e-6)
    assert measured.counts.keys() == set(GRADES)
    for grade in GRADES:
        values = knees.index[grade].to_numpy()[rows]
        np.testing.assert_array_equal(
            measured.counts[grade], np.bincount(values[values >= 0], minlength=4 + (grade == "kl"))
        )


def test_statistics_survive_the_file(knees, tmp_path):
    measured = statistics.measure(knees, np.arange(20))
    (tmp_path / "statistics.json").write_bytes(statistics.content(measured))
    assert statistics.load(tmp_path / "statistics.json") == measured


def test_auto_keeps_a_small_set_resident(knees):
    mesh, rows = make_mesh(), np.arange(8)
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
    rows, mesh = np.arange(2, 21), make_mesh()
    sampler, steps = sampling.in_order(rows, 8), range(sampling.num_batches(len(rows), 8))
    resident = collect(batches.Resident(volumes, rows, mesh), sampler, steps)
    streamed = collect(batches.Streamed(volumes, mesh), sampler, steps, workers)
    assert len(resident) == len(streamed) == 3
    names = ("volume", "labels/kl", "labels/progression", *OTHERS)
    for step, (ours, theirs) in enumerate(zip(resident, streamed)):
        assert_equal_batches(ours, theirs, names)
        known = ours["mask"]
        chosen = sampler(step)[known]
        np.testing.assert_array_equal(ours["row"][known], chosen)
        np.testing.assert_array_equal(ours["volume"][known], volumes.load(chosen)["volume"])
        expected = volumes.index["progression"].to_numpy()[chosen]
        np.testing.assert_array_equal(ours["labels/progression"][known], expected)


def test_statistics_of_known_intensities_read_no_pixels(volumes, monkeypatch):
    monkeypatch.setattr(prepared.PreparedSet, "load", None)
    rows = np.arange(30)
    measured = statistics.measure(volumes, rows, intensities=(0.257, 0.235))
    assert (measured.mean, measured.std) == (0.257, 0.235)
    expected = np.bincount(volumes.index["progression"].to_numpy()[rows], minlength=3)
    np.testing.assert_array_equal(measured.counts["progression"], expected)
