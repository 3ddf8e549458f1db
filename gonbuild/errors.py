"""Owns the errors that a user can cause or meet, and how one mistake is put into words; prints nothing.

    GonbuildError
    |-- InputError       exit 2: cards, templates, settings, lock or arguments are wrong
    `-- MachineError     exit 3: disk, GPU, memory or model is missing here

Exit codes: 0 done, 1 cards without enough good stories or stale packs, 2 input, 3 machine, 130 interrupted.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EXIT_DONE, EXIT_UNFINISHED, EXIT_INPUT, EXIT_MACHINE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, what is wrong, what was wanted and what cures it."""

    where: str
    """`path:line:column`, as much of it as is known, path relative to the project."""
    what: str
    """What was found, a clause without a full stop at its end."""
    wanted: str = ""
    """What would be right, or how to mend it: one or two clauses, empty where `what` says it all."""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}." + (f" {self.wanted}" if self.wanted else "")


class GonbuildError(Exception):
    """Anything that gonbuild says in one line or more instead of a traceback."""

    exit_code = EXIT_UNFINISHED

    def __init__(self, problems: Problem | str | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem("", problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type["GonbuildError"], tuple[tuple[Problem, ...]]]:
        """Lets another process raise the same error: from its text alone the problems' parts would be lost."""
        return type(self), (self.problems,)


class InputError(GonbuildError):
    """Cards, templates, settings, lock or arguments that a person has to mend."""

    exit_code = EXIT_INPUT


class MachineError(GonbuildError):
    """This machine lacks what the step needs: disk, memory, GPU, model, permission."""

    exit_code = EXIT_MACHINE


def near(word: str, known: Sequence[str]) -> str:
    """Returns `Did you mean 'x'?` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else ""


def one_of(words: Iterable[str]) -> str:
    """Joins words as `a, b or c`."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
