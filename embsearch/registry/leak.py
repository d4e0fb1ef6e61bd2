"""The share of the test rows that a model was trained on.

A version keeps the numbers of its training rows, so that a later candidate, with other data, knows
whether the champion has seen the rows that both are judged by.
"""

from __future__ import annotations

import numpy as np

from embsearch.data.dataset import TaskData
from embsearch.data.pairs import Keys
from embsearch.tasks.base import AnyTask


def share_seen(task: AnyTask, data: TaskData, trained: Keys) -> float | None:
    """Return the share of the test rows among ``trained``; None where the task cannot tell."""
    keys = task.row_keys(data, task.rows(data, "test"))
    return None if keys is None else float(np.isin(keys, trained).mean())
