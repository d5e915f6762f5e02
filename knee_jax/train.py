"""A training run, from a config to a folder of checkpoints, top to bottom."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import optax
from clu import parameter_overview
from tqdm import tqdm

from knee_jax import models, sharding
from knee_jax import state as states
from knee_jax import workdir as workdirs
from knee_jax.checkpoint import Checkpoints
from knee_jax.data import sampling, statistics
from knee_jax.data.augment import Augmentation
from knee_jax.data.batches import Batch
from knee_jax.errors import UserError
from knee_jax.evaluate import make_predictor, predict
from knee_jax.experiment import STATISTICS, Experiment, set_up
from knee_jax.state import TrainState
from knee_jax.writers import ScalarWriter

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def train(config: ml_collections.ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Trains until `config.epochs`; a second call with the same arguments resumes.

    A batch and its augmentation are functions of (seed, step), and the state holds all else, so a
    run that is killed and resumed repeats the same computation. On a CPU it ends in the same bits,
    on a GPU where its kernels are deterministic (`XLA_FLAGS=--xla_gpu_deterministic_ops=true`).

    Args:
        config: see `configs/`.
        workdir: receives `config.json`, `environment.json`, `statistics.json`,
            `parameters.txt`, `metrics.jsonl`, TensorBoard events and `checkpoints/`.
        data_dir: where prepared sets are.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    # ---- The knees and the network ----
    check(config)
    workdirs.refuse_other(workdir, config)
    experiment = set_up(config, workdir, data_dir)
    rows = experiment.split["train"]
    steps_per_epoch = len(rows) / config.batch_size
    num_steps = math.ceil(config.epochs * steps_per_epoch)
    epoch_ends = {math.ceil(epoch * steps_per_epoch) for epoch in range(1, config.epochs + 1)}

    # ---- The state, and the folder ----
    checkpoints = Checkpoints(workdir / "checkpoints")
    start = checkpoints.latest_step() or 0
    if start:
        like = jax.eval_shape(experiment.random_state)
        state = checkpoints.restore(start, like, experiment.mesh)
        print(f"resuming at step {start} of {num_steps}")
    else:
        state = initial_state(experiment)
    workdirs.claim(workdir, config)
    statistics.save(experiment.statistics, workdir / STATISTICS)
    report_parameters(state, workdir)

    # ---- The loop ----
    train_step = make_train_step(experiment)
    predictor = make_predictor(experiment)
    plan = sampling.shuffled(rows, config.batch_size, config.seed)
    stream = experiment.source.batches(plan, range(start, num_steps), config.data.workers)
    progress = tqdm(
        total=num_steps * config.batch_size,
        initial=start * config.batch_size,
        desc="training",
        unit="img",
        unit_scale=True,
        mininterval=1,
        disable=jax.process_index() > 0,
    )
    with checkpoints, progress, closing(stream), ScalarWriter(workdir, start) as writer:
        since_log: list[dict[str, jax.Array]] = []
        clock = time.perf_counter()
        for step, batch in enumerate(stream, start + 1):
            state, scalars = train_step(state, batch)
            since_log.append(scalars)
            progress.update(config.batch_size)

            validating = step in epoch_ends
            saving = validating or step % config.checkpoint_every == 0
            if saving or step % config.log_every == 0:
                means = mean_of_finite(since_log, step)
                seconds = time.perf_counter() - clock
                rate = len(since_log) * config.batch_size / seconds
                since_log = []
                writer.write(
                    step, {f"train/{n}": v for n, v in (means | {"images_per_s": rate}).items()}
                )
                progress.set_postfix_str(f"loss {means['loss']:.3f}")
                score = None
                if validating:
                    table = predict(experiment, predictor, state.variables, "validation")
                    score = experiment.task.score(table)
                    writer.write(step, {f"validation/{experiment.task.score_name}": score})
                    progress.set_postfix_str(f"loss {means['loss']:.3f}, validation {score:.3f}")
                if saving:
                    checkpoints.save(step, state, score)
                clock = time.perf_counter()


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a number that no run can be made with."""
    sharding.check_batch_size(config.batch_size, "batch_size")
    fields = config.to_dict()
    numbers = {name: fields[name] for name in ("epochs", "log_every", "checkpoint_every")}
    numbers["input.size"] = config.input.size
    numbers["model.width"] = config.model.get("width", 1)
    numbers["evaluation.num_resamples"] = config.evaluation.num_resamples
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"config.{name} = {value}: it must be 1 or more")


def initial_state(experiment: Experiment) -> TrainState:
    """The state before the first step, on the mesh: random, or with weights from a file."""
    state = jax.jit(experiment.random_state)()
    if source := experiment.config.init_from:
        variables = models.load(experiment.config.model.name, state.variables, source)
        state = state.replace(**variables)
    return sharding.place(state, sharding.replicated(experiment.mesh))


def report_parameters(state: TrainState, workdir: Path) -> None:
    """Writes every parameter and its shape to `parameters.txt`, and prints how many there are."""
    if jax.process_index() == 0:
        overview = parameter_overview.get_parameter_overview(state.variables, include_stats=False)
        (workdir / "parameters.txt").write_text(overview + "\n", encoding="utf-8")
        print(f"{parameter_overview.count_parameters(state.params):,} parameters")


def make_train_step(experiment: Experiment) -> Step:
    """The compiled training step: (state, batch) → (next state, scalars)."""
    config, model, task = experiment.config, experiment.model, experiment.task
    augmentation = Augmentation(**config.augmentation)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        view_key, dropout_key = jax.random.split(key)
        images, keypoints = experiment.views(batch, view_key, augmentation)

        def loss_of(params: states.Variables) -> tuple[jax.Array, states.Variables]:
            outputs, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                keypoints,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )
            return task.loss(outputs, batch), updates.get("batch_stats", {})

        (loss, batch_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = experiment.optimizer.update(grads, state.opt_state, state.params)
        scalars = {
            "loss": loss,
            "learning_rate": experiment.schedule(state.step),
            "gradient_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
        }
        next_state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return next_state, {name: jnp.float32(value) for name, value in scalars.items()}

    replicated = sharding.replicated(experiment.mesh)
    return jax.jit(train_step, donate_argnums=0, out_shardings=replicated)


def mean_of_finite(scalars: list[dict[str, jax.Array]], step: int) -> dict[str, float]:
    """Means over the steps since the last call.

    Raises:
        UserError: one of them is not finite; nothing is saved after it.
    """
    host = jax.device_get(scalars)
    means = {name: sum(float(s[name]) for s in host) / len(host) for name in host[0]}
    for name, value in means.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {value} between steps {step - len(host)} and {step}: training has "
                "diverged; lower config.optimizer.learning_rate, or look for bad images"
            )
    return means
