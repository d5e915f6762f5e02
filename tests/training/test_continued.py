"""A run goes on in a folder of its own, through more epochs or in other batches."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from knee_jax.config.load import parse
from knee_jax.data.mesh import make_mesh
from knee_jax.errors import UserError
from knee_jax.training import continued, state, train
from knee_jax.training.run import set_up
from knee_jax.workdir.checkpoint import Checkpoints
from tests.folders import losses

pytestmark = pytest.mark.usefixtures("few_optimisations")


def test_counts_are_those_of_the_new_batches():
    """72 knees seen in nine steps of eight are four and a half steps of sixteen."""
    optimizer = optax.MultiSteps(optax.adam(optax.constant_schedule(0.1)), 3)
    made = state.create({"params": {"kernel": jnp.ones(2)}}, optimizer)
    adam, rate = made.opt_state.inner_opt_state
    three = jnp.int32(3)
    inner = (adam._replace(count=three, mu={"kernel": jnp.ones(2)}), rate._replace(count=three))
    counted = made.opt_state._replace(gradient_step=three, inner_opt_state=inner)
    made = made.replace(step=jnp.int32(9), opt_state=counted)
    larger = continued.in_batches_of(made, 8, 16)
    assert (int(larger.step), int(larger.opt_state.gradient_step)) == (5, 1)
    smaller = continued.in_batches_of(made, 8, 4)
    assert (int(smaller.step), int(smaller.opt_state.gradient_step)) == (18, 6)
    assert int(smaller.opt_state.inner_opt_state[0].count) == 6
    np.testing.assert_array_equal(
        smaller.opt_state.inner_opt_state[0].mu["kernel"],
        made.opt_state.inner_opt_state[0].mu["kernel"],
    )
    assert continued.in_batches_of(made, 8, 8) is made


def test_what_a_continuation_cannot_change_is_named(config, tmp_path):
    from knee_jax.workdir import folder

    folder.write_config(tmp_path / "before", parse(config))
    config.continue_from = str(tmp_path / "before")
    epochs = config.epochs
    config.epochs, config.batch_size = 7, 16
    (note,) = continued.changes(parse(config), tmp_path)
    assert note.endswith(f"batch_size 8 → 16, epochs {epochs} → 7.")
    config.model.width = 16
    config.seed = 3
    with pytest.raises(UserError, match=r"differs in model.width, seed, and .* only continue_from"):
        continued.changes(parse(config), tmp_path)
    config.continue_from = str(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no run"):
        continued.changes(parse(config), tmp_path)


def latest(workdir, run):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        like = jax.eval_shape(run.random_state)
        return step, checkpoints.restore(step, like, make_mesh())


@pytest.mark.slow
def test_an_extended_run_is_the_longer_one_bit_for_bit(config, tmp_path, tiny_data_dir):
    config.log_every = 1
    config.epochs = 2
    train.train(parse(config), tmp_path / "short", tiny_data_dir)
    config.epochs = 3
    train.train(parse(config), tmp_path / "long", tiny_data_dir)
    config.continue_from = str(tmp_path / "short")
    train.train(parse(config), tmp_path / "extended", tiny_data_dir)
    run = set_up(parse(config), tmp_path / "extended", tiny_data_dir)
    assert any("epochs 2 → 3" in note for note in run.notes)
    (step, ours), (same, theirs) = (latest(tmp_path / n, run) for n in ("extended", "long"))
    assert step == same
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    more = losses(tmp_path / "extended")
    np.testing.assert_array_equal(more, losses(tmp_path / "long")[-len(more) :])

    # Nothing is left to do where no epoch is added; and other knees are refused.
    config.epochs = 2
    with pytest.raises(UserError, match=r"has done 2\.\d* epochs, and config.epochs is 2: raise"):
        train.train(parse(config), tmp_path / "again", tiny_data_dir)
    before = shutil.copytree(tmp_path / "short", tmp_path / "other")
    listed = (before / "knees.csv").read_text()
    (before / "knees.csv").write_text(listed.replace("validation", "test"))
    config.epochs, config.continue_from = 3, str(before)
    with pytest.raises(UserError, match="was of other knees"):
        train.train(parse(config), tmp_path / "again", tiny_data_dir)


@pytest.mark.long
def test_a_run_goes_on_in_other_batches_where_it_was(config, tmp_path, tiny_data_dir, capsys):
    config.log_every = config.epochs = 1
    train.train(parse(config), tmp_path / "before", tiny_data_dir)
    run = set_up(parse(config), tmp_path / "before", tiny_data_dir)
    done, _ = latest(tmp_path / "before", run)
    config.epochs, config.batch_size = 2, 16
    config.continue_from = str(tmp_path / "before")
    train.train(parse(config), tmp_path / "after", tiny_data_dir)
    begun = -(-done * 8 // 16)
    told = capsys.readouterr().out
    assert f"going on at step {begun}, which was step {done} of batches of 8" in told
    assert len(losses(tmp_path / "after")) == -(-2 * run.steps_per_epoch * 8 // 16) - begun
