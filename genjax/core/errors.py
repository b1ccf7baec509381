"""The two ways in which a run may end that are not a defect of genjax."""


class UserError(Exception):
    """The user's input is wrong: one line that names the key, file or flag and the mend.

    The command line prints `genjax: error: MESSAGE` and exits with 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


class Diverged(Exception):
    """Training produced a non-finite value; the command line exits with 3."""
