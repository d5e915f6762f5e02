"""Train a system and evaluate it, cross-validate it, or sweep its variants and seeds.

    knee-jax train --config=kpn:demo --workdir=runs/demo
    knee-jax train --config=oarsi --mode=cv --workdir=runs/oarsi
    knee-jax train --config=runs/demo/config.json --config.seed=1 --workdir=runs/demo_1

The same command again resumes a run. `--help-config` lists the fields of a config, with their
ranges and defaults.
"""

import contextlib

from absl import flags

from knee_jax.cli import config_argument, path

FLAGS = flags.FLAGS
rewrite = config_argument.rewrite


def define_flags() -> None:
    """Define the flags."""
    config_argument.define_flag()
    flags.DEFINE_string("workdir", None, "Folder of the run; the same command again resumes it.")
    flags.DEFINE_string("data_dir", "data", "Folder of prepared sets; a missing set is made there.")
    flags.DEFINE_enum(
        "mode",
        "train",
        ["train", "evaluate", "cv", "sweep"],
        "Train and then evaluate; evaluate only; train and evaluate all folds of all networks; or "
        "all variants and seeds of config.sweep.",
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "Join the other processes of this run; on Slurm and TPU pods this is enough.",
    )
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, where it is not found by itself."
    )
    flags.DEFINE_integer(
        "num_processes", None, "Number of processes of the run, where it is not found."
    )
    flags.DEFINE_integer(
        "process_id", None, "Number of this process, from 0, where it is not found."
    )
    flags.DEFINE_string(
        "figures",
        "",
        "Formats in which the report's figures are written beside it: svg, pdf, png, or several.",
    )
    flags.mark_flags_as_required(["config", "workdir"])
    flags.register_validator("workdir", bool, "it must name a folder")


def main(_: list[str]) -> None:
    """Do what `--mode` says."""
    from knee_jax.cli.joined import joined
    from knee_jax.cli.process import cache_programs
    from knee_jax.config import load

    config = load.parse(FLAGS.config)
    cache_programs()
    workdir, data_dir = path(FLAGS.workdir), path(FLAGS.data_dir)

    from knee_jax.evaluation.evaluate import evaluate
    from knee_jax.experiments.cross_validate import cross_validate
    from knee_jax.experiments.sweep import sweep
    from knee_jax.report.attached import parse_formats
    from knee_jax.training.train import train
    from knee_jax.workdir.folder import lock

    formats = parse_formats(FLAGS.figures)
    with contextlib.ExitStack() as stack:
        if FLAGS.distributed:
            stack.enter_context(joined(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id))
        if FLAGS.mode == "evaluate":
            evaluate(config, workdir, data_dir, formats)
            return
        stack.enter_context(lock(workdir))
        if FLAGS.mode == "cv":
            cross_validate(config, workdir, data_dir, formats)
        elif FLAGS.mode == "sweep":
            sweep(config, workdir, data_dir)
        else:
            train(config, workdir, data_dir)
            evaluate(config, workdir, data_dir, formats)
