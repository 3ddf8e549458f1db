"""Owns putting a pass's rows into one sequence, in which what all rows begin with stands once; trains nothing.

Every prompt starts with the system turn, about half of a short row. In the packed sequence a token sees what all rows
have in common and what stands before it in its own row, so each row is read as if it stood alone, without padding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

IGNORED = -100
"""The label of a token that is not learned."""


def pack(rows: Sequence[tuple[Sequence[int], int]], pad: int, multiple: int = 1) -> dict[str, Tensor]:
    """Puts rows, (token ids, index of the first one that is learned) each, into one sequence of T tokens.

    T is rounded up to a multiple.

    Returns tensors of (1, T): `input_ids`; `position_ids`, those that the tokens have in their rows; `segments`, 0 for
    what all rows begin with, then 1 for the first row and so on, -1 for padding; and `shift_labels`, at each token the
    next one of its row where that is learned, else `IGNORED`.
    """
    shared = shared_tokens(rows)
    ids, positions, segments = list(rows[0][0][:shared]), list(range(shared)), [0] * shared
    labels = [IGNORED] * shared
    for number, (row, start) in enumerate(rows, 1):
        ids += row[shared:]
        positions += range(shared, len(row))
        segments += [number] * (len(row) - shared)
        labels += [row[at] if at >= start else IGNORED for at in range(shared + 1, len(row))] + [IGNORED]
    rest = -len(ids) % multiple
    columns = {
        "input_ids": ids + [pad] * rest,
        "position_ids": positions + [0] * rest,
        "segments": segments + [-1] * rest,
        "shift_labels": labels + [IGNORED] * rest,
    }
    return {name: torch.tensor([column]) for name, column in columns.items()}


def shared_tokens(rows: Sequence[tuple[Sequence[int], int]]) -> int:
    """Counts the leading tokens that all rows have in common and that foretell none that is learned; 0 of one row."""
    if len(rows) < 2:
        return 0
    most = min(start - 1 for _, start in rows)
    columns = zip(*(row[: max(most, 0)] for row, _ in rows), strict=False)
    return next((at for at, column in enumerate(columns) if len(set(column)) > 1), max(most, 0))


def attention_mask(segments: Tensor) -> Tensor:
    """Returns which token sees which, bool (1, 1, T, T), of segments (1, T)."""
    seen, sees = segments[:, None, None, :], segments[:, None, :, None]
    return torch.ones_like(seen == sees).tril() & ((seen == 0) | (seen == sees))
