"""Tell what a config asks of devices, before any data is touched; for TPUs without one.

    knee-jax dry-run --config=kpn --topology=v5e:2x4
    knee-jax dry-run --config=mri_progression --topology=cuda:8
    knee-jax dry-run --config=siamese_gap:demo --topology=cpu

Prints parameters, shapes, operations, bytes, memory per device and whether it fits, the collectives
of a step, and the least time that a step can take. For TPUs (`v5e:2x4`, `v5p:2x2x1`, `v6e:2x4`) the
step is compiled, which takes minutes and the package libtpu; for `cuda` it is lowered only.
"""

from absl import flags

from knee_jax.cli import config_argument

FLAGS = flags.FLAGS
rewrite = config_argument.rewrite


def define_flags() -> None:
    """Define the flags."""
    config_argument.define_flag()
    flags.DEFINE_string(
        "topology", "cpu", "Devices: v5e:2x4 and other TPU slices, cuda, cuda:8, h100:8, cpu."
    )
    flags.DEFINE_bool("inference", True, "Whether the prediction of a batch is looked at as well.")
    flags.DEFINE_string("out", "", "File that receives the numbers as JSON as well.")
    flags.mark_flag_as_required("config")


def main(_: list[str]) -> None:
    """Lower or compile, and print."""
    import tempfile
    from pathlib import Path

    import jax

    # Nothing here needs an accelerator, nor must it take one.
    jax.config.update("jax_platforms", "cpu")

    from knee_jax import datasets
    from knee_jax.config import load
    from knee_jax.files import write_json
    from knee_jax.models.layers import tracing_for
    from knee_jax.training import dry_run, topologies

    config = load.parse(FLAGS.config)
    of = topologies.of(FLAGS.topology)
    with tempfile.TemporaryDirectory() as nowhere:
        features = datasets.builder(config.data.dataset, nowhere).info.features
    pixels = next(features[name].shape for name in ("image", "volume") if name in features)
    with tracing_for(of.platform):
        run = dry_run.plan(config, pixels, of)
    numbers = dry_run.numbers(run, pixels, of, inference=FLAGS.inference)
    print(dry_run.text(numbers))
    if FLAGS.out:
        write_json(Path(FLAGS.out).expanduser(), numbers)
