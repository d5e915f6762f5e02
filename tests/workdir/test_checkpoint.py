import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from knee_jax.data.mesh import make_mesh
from knee_jax.errors import UserError
from knee_jax.training import state
from knee_jax.workdir.checkpoint import HASHES, Checkpoints


def make_state(value=1.0, features=3):
    variables = {
        "params": {"head": {"kernel": jnp.full((features, 2), float(value))}},
        "batch_stats": {"mean": jnp.full(2, float(value))},
    }
    return state.create(variables, optax.adamw(1e-3)).replace(step=jnp.int32(value))


def like(**kwargs):
    return jax.eval_shape(lambda: make_state(**kwargs))


def test_the_two_latest_and_the_best_are_kept(tmp_path):
    scores = {1: 0.5, 2: None, 3: 0.9, 4: None, 5: 0.7, 6: None}
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, make_state(step), score)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest_step() == 6
        assert checkpoints.best_step() == 3
        for step in (3, 6):
            restored = checkpoints.restore(step, like(), make_mesh())
            for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(make_state(step))):
                np.testing.assert_array_equal(ours, theirs)
                assert ours.dtype == theirs.dtype
    kept = {int(path.name) for path in (tmp_path / "c").iterdir() if path.name.isdigit()}
    assert kept == {3, 5, 6}


def test_of_equal_scores_the_later_is_the_best(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(), 0.5 if step < 3 else 0.4)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.best_step() == 2


def test_without_validation_there_is_no_best(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(1, make_state())
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest_step() == 1
        assert checkpoints.best_step() is None


def test_a_checkpoint_that_was_not_finished_does_not_count(tmp_path):
    folder = tmp_path / "c"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, make_state())
    # What Orbax leaves behind when it is killed while writing step 2.
    shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step() == 1
        checkpoints.save(2, make_state(2))
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step() == 2
        assert int(checkpoints.restore(2, like(), make_mesh()).step) == 2


def test_the_state_of_another_model_is_named(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, make_state(features=3))
    with (
        Checkpoints(tmp_path / "c") as checkpoints,
        pytest.raises(
            UserError, match=r"another model: .*head/kernel is \(3, 2\) there and \(4, 2"
        ),
    ):
        checkpoints.restore(1, like(features=4), make_mesh())


def test_a_full_disk_is_reported_and_leaves_the_checkpoint_before(small_disk):
    folder = small_disk("500k") / "c"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, make_state())
    (folder.parent / "filler").write_bytes(bytes(300_000))
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(UserError, match=r"c: the disk is full; a checkpoint needs 0.\d MB"),
    ):
        checkpoints.save(2, make_state(features=8_000))
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step() == 1
        checkpoints.restore(1, like(), make_mesh())


@pytest.mark.parametrize("batch_stats", [{"bn": {"mean": jnp.zeros(2)}}, {}])
def test_variables_are_read_without_knowing_the_network(tmp_path, batch_stats):
    """Also those of a network that has no batch norm."""
    variables = {"params": {"head": {"kernel": jnp.arange(6.0).reshape(3, 2)}}}
    made = state.create(variables | {"batch_stats": batch_stats}, optax.adamw(1e-3))
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, made, 0.5)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        found = checkpoints.restore_variables(1)
    assert jax.tree.structure(found) == jax.tree.structure(made.variables)
    jax.tree.map(np.testing.assert_array_equal, found, made.variables)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))


def test_later_checkpoints_are_deleted(tmp_path):
    with Checkpoints(tmp_path / "c", latest=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step))
    with Checkpoints(tmp_path / "c", latest=3) as checkpoints:
        checkpoints.delete_after(2)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.steps() == {1, 2}


def test_moving_averages_are_restored_and_are_what_predicts(tmp_path):
    made = {
        "params": {"w": jnp.arange(3.0)},
        "batch_stats": {"m": jnp.zeros(2)},
        "average": {"params": {"w": jnp.full(3, 7.0)}, "batch_stats": {"m": jnp.ones(2)}},
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, made, 0.5)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        found = checkpoints.restore_variables(1)
        restored = checkpoints.restore(1, made, make_mesh())
    jax.tree.map(np.testing.assert_array_equal, found, made["average"])
    jax.tree.map(np.testing.assert_array_equal, restored, made)


def damaged(path, kind):
    content = path.read_bytes()
    if kind == "flipped":
        path.write_bytes(content[: len(content) // 2] + b"\xff" + content[len(content) // 2 + 1 :])
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()


@pytest.fixture
def three(tmp_path):
    """Checkpoints of steps 1 to 3, of which the second is the best."""
    with Checkpoints(tmp_path / "c", latest=3) as checkpoints:
        for step, score in ((1, 0.2), (2, 0.9), (3, 0.5)):
            checkpoints.save(step, make_state(step), score)
    (tmp_path / "manifest.json").write_text("{}")
    return tmp_path / "c"


FILES = ("metrics/metrics", "default/_METADATA", "default/manifest.ocdbt", "default/d", HASHES)


@pytest.mark.parametrize("kind", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_set_aside_and_another_taken(three, caplog, name, kind):
    file = three / "3" / name
    damaged(next(file.iterdir()) if file.is_dir() else file, kind)
    # Whoever only reads passes it over.
    with Checkpoints(three, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 2
        assert checkpoints.best_step() == 2
    assert (three / "3").exists()
    caplog.clear()
    with Checkpoints(three) as checkpoints:
        assert checkpoints.steps() == {1, 2}
        assert int(checkpoints.restore(2, like(), make_mesh()).step) == 2
        checkpoints.save(3, make_state(3), 0.1)
    assert (three.parent / "set_aside" / "3").is_dir()
    assert "checkpoint 3 in" in caplog.messages[0]
    with Checkpoints(three) as checkpoints:
        assert checkpoints.latest_step() == 3


def test_the_next_best_is_taken(three):
    damaged(three / "2/metrics/metrics", "flipped")
    with Checkpoints(three, read_only=True) as checkpoints:
        assert checkpoints.best_step() == 3


@pytest.mark.parametrize("kind", ["empty", "swapped", "without its files"])
def test_a_folder_that_is_no_checkpoint_of_its_step_is_set_aside(three, kind):
    if kind == "empty":
        (three / "99").mkdir()
    elif kind == "swapped":
        shutil.copytree(three / "1", three / "99")
    else:
        (three / "99").mkdir()
        shutil.copy(three / "3/hashes.json", three / "99")
    with Checkpoints(three) as checkpoints:
        assert checkpoints.latest_step() == 3
    assert (three.parent / "set_aside/99").is_dir()


def test_checkpoints_of_a_version_without_hashes_are_read_and_get_some(three, caplog):
    for step in "123":
        (three / step / "hashes.json").unlink()
    (three.parent / "manifest.json").unlink()
    with Checkpoints(three) as checkpoints:
        assert checkpoints.steps() == {1, 2, 3}
    assert (three / "3/hashes.json").exists()
    (three.parent / "manifest.json").write_text("{}")
    with Checkpoints(three) as checkpoints:
        assert checkpoints.latest_step() == 3


# Orbax leaves the loops of its threads behind when a save fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_fills_while_saving_is_told_in_one_line(small_disk, monkeypatch, capfd):
    """As when another process takes the room between the check and the save."""
    folder = small_disk("700k") / "c"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, make_state())
    monkeypatch.setattr(Checkpoints, "_require_space", lambda *_: None)
    state = make_state(features=200_000)
    noise = jax.random.normal(jax.random.key(0), (200_000, 2))  # Nothing to compress.
    state = state.replace(params={"head": {"kernel": noise}})
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(2, state)
        with pytest.raises(
            UserError, match=r"c: the disk is full; the checkpoint of step 2 could not"
        ):
            checkpoints.close()
    assert len(capfd.readouterr().err.splitlines()) <= 1
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step() == 1
    gc.collect()
