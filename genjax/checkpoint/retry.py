"""Storage that fails now and then: an operation is tried again, after longer and longer waits.

The drivers of buckets (gcsfs, s3fs, TensorStore) try again by themselves, some for seconds only;
mounts and other drivers do not. This is beneath them all, for what outlasts a driver's patience.
"""

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from genjax.core.errors import FULL

T = TypeVar("T")
_log = logging.getLogger("genjax")

PATIENCE = 120.0  # seconds of waiting before an operation is given up
_FIRST, _LONGEST = 0.1, 10.0  # seconds of the first wait (each next is twice as long) and the last

# What the same call would meet again: an answer, not a failure.
_ANSWERS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_FINAL = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EINVAL)


def passing(error: Exception) -> bool:
    """Says whether the same operation may succeed later.

    Errors of the operating system (time-outs and lost connections are among them) but those that
    are answers, and HTTP errors of drivers that carry a `code` for "too many" or "server error".
    """
    if isinstance(error, OSError):
        return not isinstance(error, _ANSWERS) and error.errno not in _FINAL
    code = str(getattr(error, "code", ""))
    return code in ("408", "429") or (len(code) == 3 and code.startswith("5"))


def retried(what: str, operation: Callable[[], T]) -> T:
    """Returns `operation()`, which must bear repetition; `what` names it in the log.

    Waits 0.1, 0.2, ... 10 s between tries, each shortened at random by up to a half so that many
    processes do not come back as one, until `PATIENCE` is over; then, and at once if there is no
    hope, raises what the last try raised.
    """
    waited, wait = 0.0, _FIRST
    while True:
        try:
            return operation()
        except Exception as error:
            if not passing(error) or waited >= PATIENCE:
                raise
            if wait >= 1:  # shorter ones are nothing to tell
                _log.warning("%s: %s; trying again", what, error)
        pause = wait * random.uniform(0.5, 1)
        time.sleep(pause)
        waited, wait = waited + pause, min(2 * wait, _LONGEST)
