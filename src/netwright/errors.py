"""What a user sees when something is wrong: one line, and what to do about it.

Every error that Netwright raises on purpose derives from `NetwrightError` and, where Python has a natural
kind for it, from that kind as well. The command line prints the message and exits with `exit_code`.
"""

from __future__ import annotations

import errno


class NetwrightError(Exception):
    """Base of all errors that Netwright raises on purpose.

    Args:
        message: What is wrong and where, in one line.
        hint: What to do about it, in one line.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message} — {hint}" if hint else message)


class UsageError(NetwrightError, ValueError):
    """An argument, option or specification that cannot be understood."""


class ModelError(NetwrightError, ValueError):
    """A model that cannot be found, built, loaded or run on its example input."""


class DataError(NetwrightError, ValueError):
    """A data set that is missing, empty, corrupt or does not fit the model."""


class BudgetError(NetwrightError, ValueError):
    """A budget that is malformed or cannot be met; the message says the nearest one that can."""


class StructureError(NetwrightError, RuntimeError):
    """A network whose structure cannot be changed as asked; names the operator and the module."""


class TrainingError(NetwrightError, RuntimeError):
    """Training that cannot go on: a loss that is not finite, a checkpoint that does not fit."""


class ArtefactError(NetwrightError, OSError):
    """A file that cannot be read, written or trusted."""


class MissingExtraError(NetwrightError, ImportError):
    """An optional dependency that is not installed; names the extra that brings it."""


class Interrupted(NetwrightError):  # noqa: N818 - it is not a fault
    """The user stopped the run; what was finished is kept and the same command resumes."""

    exit_code = 130


def from_os_error(error: OSError, doing: str) -> ArtefactError:
    """Turn an operating system error into one clear line.

    Args:
        error: What the operating system said.
        doing: What was being done, for instance ``"writing front.csv"``.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ArtefactError(
            f"no space left on the disk while {doing}", "free some space and run the same command again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ArtefactError(f"no permission while {doing}", "choose another place for the output")
    return ArtefactError(f"{error.strerror or error} while {doing}")
