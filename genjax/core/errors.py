"""The ways in which a run may end that are not a defect of genjax."""

import errno

# No room: on the disk, in the quota, or under a limit of file sizes.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """The user's input is wrong: one line that names the key, file or flag and the mend.

    The command line prints `genjax: error: MESSAGE` and exits with 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


class Diverged(Exception):
    """Training produced a non-finite value; the command line exits with 3."""


class SaveFailed(RuntimeError):
    """A checkpoint could not be written (a full disk, say); the earlier ones are intact.

    The command line prints one line and exits with 1, as for any full disk: worth another try.
    """


def is_full(error: OSError) -> bool:
    """Says whether there was no room for a file."""
    return error.errno in FULL
