"""The one exception a user's mistake raises, and what others say in one line."""

from __future__ import annotations


class SwiftError(Exception):
    """A mistake that the user can mend: what is wrong, where, and what to do.

    The command line prints it in a few lines and exits with 2. A traceback is for our own bugs only.

    Args:
        what: what is wrong, naming the option or thing and its value.
        where: the file, row or flag it was found at.
        fix: what to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  at: {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


def raised_at(error: BaseException) -> str | None:
    """The innermost place in code that raised an exception: file and line."""
    trace, place = error.__traceback__, None
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
