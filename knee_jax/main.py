"""The front door: `python -m knee_jax.main --config=configs/kpn.py --workdir=runs/kpn`."""

from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from knee_jax import cli
from knee_jax.cross_validate import cross_validate
from knee_jax.evaluate import evaluate
from knee_jax.sweep import sweep
from knee_jax.train import train
from knee_jax.workdir import hold

MANY = {"cv": cross_validate, "sweep": sweep}
"""The modes that make many runs of one config."""

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config",
    help_string="File of a config and its variant, as in configs/kpn.py:demo; "
    "--config.FIELD=VALUE changes a field.",
    lock_config=True,
)
flags.DEFINE_string("workdir", None, "Folder of the run; the same command again resumes it.")
flags.DEFINE_string("data_dir", "data", "Folder of prepared sets; a missing set is made there.")
flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "cv", "sweep"],
    "Train and then evaluate; evaluate only; train and evaluate all folds of all networks; or all "
    "variants and seeds of config.sweep.",
)
flags.DEFINE_bool(
    "distributed", False, "Join the other processes of this run; on Slurm and TPU pods that is all."
)
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where it cannot be found out.")
flags.DEFINE_integer("num_processes", None, "Processes of the run, likewise.")
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, likewise.")
flags.mark_flags_as_required(["config", "workdir"])
flags.register_validator("workdir", bool, "it must name a folder")


def main(_: list[str]) -> None:
    """Runs what the flags ask for."""
    if FLAGS.distributed:
        jax.distributed.initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    config, workdir, data_dir = FLAGS.config, Path(FLAGS.workdir), Path(FLAGS.data_dir)
    if FLAGS.mode in MANY:
        with hold(workdir):
            MANY[FLAGS.mode](config, workdir, data_dir)
        return
    if FLAGS.mode == "train":
        with hold(workdir):
            train(config, workdir, data_dir)
    evaluate(config, workdir, data_dir)


def run() -> None:
    """The entry point of the command."""
    cli.run(main)


if __name__ == "__main__":
    run()
