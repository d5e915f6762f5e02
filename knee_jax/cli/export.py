"""Write the network of a finished run to one file, which predicts without any training code.

    knee-jax export RUN --out=FILE.knee

The file holds the program with its preprocessing (StableHLO, for cpu, cuda and tpu), the weights
(safetensors), targets, calibration, facts, the run's config, and which knees it has learnt from
(subjects by pseudonym), so that none of them is ever scored. `knee-jax predict --model=FILE.knee`,
`knee-jax finetune FILE.knee` and `knee_jax.load("FILE.knee")` read it.
"""

from pathlib import Path

from absl import flags

from knee_jax.errors import UserError

TAKES_WORDS = True


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("out", None, "File to write, *.knee.", required=True)
    flags.DEFINE_bool("half", False, "Store weights in half precision.")
    flags.DEFINE_string(
        "data_dir",
        "data",
        "Folder of prepared sets: the run's own is read to describe its training knees.",
    )
    flags.DEFINE_string("card", None, "File of the model card (Markdown).")


def main(words: list[str]) -> None:
    """Export, and print what was written."""
    from knee_jax.cohort import held_out, knees
    from knee_jax.evaluation.familiar import measure
    from knee_jax.inference import exported

    options = flags.FLAGS
    if len(words) != 1:
        raise UserError("name one run's folder: knee-jax export RUN --out=FILE.knee")
    path = Path(options.out).expanduser()
    if path.suffix != exported.SUFFIX:
        raise UserError(f"--out={options.out}: a name that ends in {exported.SUFFIX} is expected")
    if path.exists():
        raise UserError(f"--out={options.out}: exists; name a new file, or delete it")
    card = _card(Path(options.card).expanduser()) if options.card else ""
    run = Path(words[0]).expanduser()
    known = held_out.learnt_by(run)
    familiar = measure(run, Path(options.data_dir).expanduser())
    if familiar is None:
        print(
            f"the model will not know what is unlike its training knees: --data_dir="
            f"{options.data_dir} does not hold the set that it was trained on, or the network or "
            "the set is too small for it"
        )
    learnt = "" if known is None else knees.text_of(knees.under_pseudonyms(known))
    exported.write(run, path, half=options.half, card=card, learnt=learnt, known=familiar)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--card={path}: is no file of text in UTF-8") from error
