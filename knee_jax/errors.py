"""The two kinds of trouble a user's files can cause, and how they are told."""


class UserError(Exception):
    """Something the user can mend: one line that names the thing and the remedy.

    Entry points print it without a traceback and exit with status 1 (`knee_jax.cli.run`).
    """


class UnusableKnee(Exception):
    """One film, landmark file or image that cannot be used; the others go on.

    Attributes:
        reason: a short fixed name such as `no_spacing`, by which the account counts.
        detail: what was found, in words, for the row of `quarantine.csv`.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self):
        # Worker processes send it back to the parent, and pickling an exception replays `args`.
        return type(self), (self.reason, self.detail)
