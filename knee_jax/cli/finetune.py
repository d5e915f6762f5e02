"""Train a finished model on with knees of your own, and say whether it became better.

    knee-jax finetune MODEL --data=SET --workdir=runs/mine

MODEL is one that comes with the project (`knee-jax list weights`), a run's folder or an exported
file; SET a prepared set (`knee-jax prepare folder` makes one of images and a table of labels), of
20 labelled knees or more. Subjects are divided 3:1:1 into training, validation and test knees; the
best checkpoint by the validation knees is kept. At the end the run and the model that it began from
are compared on the test knees, with paired intervals; knees that the model had learnt from are left
out of it. The folder is a run as any other: `predict`, `evaluate` and `export` take it, and the
same command again resumes. For research only, not a medical device.
"""

from absl import flags

from knee_jax.cli import path
from knee_jax.errors import UserError

TAKES_WORDS = True


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("data", None, "Prepared set: its name in --data_dir.", required=True)
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("data_dir", "data", "Folder of prepared sets.")
    flags.DEFINE_list("targets", [], "What is learnt; default: what the model predicts.")
    flags.DEFINE_integer("seed", 0, "Random seed.", lower_bound=0)
    flags.DEFINE_integer("epochs", None, "Epochs; default: by the number of knees.", lower_bound=1)


def main(words: list[str]) -> None:
    """Fine-tune, evaluate and compare."""
    options = flags.FLAGS
    if len(words) != 1:
        raise UserError("name one model: knee-jax finetune MODEL --data=SET --workdir=DIR")
    from knee_jax.cli.learnt import learnt_by
    from knee_jax.cli.process import cache_programs
    from knee_jax.config import load
    from knee_jax.data.prepared import open_set
    from knee_jax.datasets.prepare import prepare
    from knee_jax.evaluation.evaluate import evaluate
    from knee_jax.experiments import finetune
    from knee_jax.inference import models
    from knee_jax.training.train import train
    from knee_jax.workdir.folder import check_same_config, lock

    cache_programs()
    workdir, data_dir = path(options.workdir), path(options.data_dir)
    before, arrays = models.contents(words[0])
    prepared = open_set(prepare(options.data, data_dir))
    names = finetune.targets_of(before, prepared, options.targets)
    number = finetune.number_of(prepared, names)
    config = finetune.recipe(before, options.data, names, number)
    changes = {"seed": options.seed, "init_from": str(workdir / finetune.INITIAL)}
    changes |= {"epochs": options.epochs} if options.epochs else {}
    config = load.changed(config, changes)
    print(
        f"{number:,} knees with a label of {', '.join(names)}: {config.epochs} epochs in batches "
        f"of {config.batch_size}"
    )
    with lock(workdir):
        check_same_config(workdir, config)
        finetune.write_initial(workdir, arrays, names, learnt_by(words[0]))
        train(config, workdir, data_dir)
        evaluate(config, workdir, data_dir)
    predictor = models.load(words[0])
    if set(names) & {target.name for target in predictor.targets}:
        resamples = config.evaluation.num_resamples
        print(f"\n{finetune.compare(workdir, predictor, prepared, resamples)}")
    else:
        print(f"\n{words[0]} does not predict {', '.join(names)}: there is nothing to compare with")
    print("\nFor research only, not a medical device.")
