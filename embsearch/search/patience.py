"""Optuna's storage while its database goes away and comes back: every call waits, and is made again.

A call whose answer was lost may have been done. Most can be repeated: they set what is there to the same value.
The others look first: ``create_new_trial`` at the number of trials, which nobody else changes, and what has ended
or gone is taken as done.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from embsearch.errors import StudyError
from embsearch.search.database import Wait

PATIENCE = 1800.0  # seconds that a database may be away; the running segments go on meanwhile
LONGEST_PAUSE = 5.0  # seconds between two tries


class Away(Exception):
    """The connection was lost, or there is none to be had; or the request met another one and can be made again."""


class Patient:
    """Has every method of ``inner``."""

    def __init__(self, inner: optuna.storages.BaseStorage, where: str, wait: Wait) -> None:
        self._inner, self._where, self._wait = inner, where, wait
        self._counts: dict[int, int] = {}  # trials of a study

    def as_storage(self) -> optuna.storages.BaseStorage:
        """The same, for those who look at types."""
        return cast(optuna.storages.BaseStorage, self)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return partial(self._call, name) if callable(found) else found

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As Optuna's, once. Raises StudyError where somebody else has made one meanwhile."""
        if study_id not in self._counts:
            self._call("get_all_trials", study_id, deepcopy=False)
        made = int(self._call("create_new_trial", study_id, template_trial))
        number = self._counts[study_id]
        try:  # Optuna remembers the number of a trial that it made: not a request
            ours = self._call("get_trial_id_from_study_id_trial_number", study_id, number) == made
        except KeyError:
            ours = False
        if not ours:
            raise self._shared(number)
        self._counts[study_id] += 1
        return made

    def _shared(self, mine: int) -> StudyError:
        return StudyError(
            f"PostgreSQL at {self._where}: the study has more or fewer trials there than the {mine} of this "
            "coordinator; is another one using a copy of this home? The same command makes it again from "
            "the event logs"
        )

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        outage = _Outage(self._where, self._wait)
        while True:
            try:
                if name == "create_new_trial" and outage.tries and (made := self._newest(*args)) is not None:
                    result: Any = made
                else:
                    result = getattr(self._inner, name)(*args, **options)
            except Away as error:
                outage.go_on(error)
            except UpdateFinishedTrialError:
                if name != "set_trial_state_values" or not outage.tries:
                    raise
                result = True
                break
            except KeyError:
                if name != "delete_study" or not outage.tries:
                    raise
                result = None
                break
            else:
                break
        if name == "delete_study":
            self._counts.pop(args[0], None)
        elif name == "get_all_trials" and options.get("states") is None:
            self._counts.setdefault(args[0], len(result))  # when the study was opened; from here on only we add to it
        outage.over()
        return result

    def _newest(self, study_id: int, template: FrozenTrial | None) -> int | None:
        """The trial whose making was not answered, if it was made."""
        there = self._inner.get_all_trials(study_id, deepcopy=False)
        more = len(there) - self._counts[study_id]
        if more not in (0, 1):
            raise self._shared(self._counts[study_id])
        return there[-1]._trial_id if more else None


class _Outage:
    """From the first call that fails to the one that does not."""

    def __init__(self, where: str, wait: Wait) -> None:
        self._where, self._wait = where, wait
        self.tries = 0
        self._since, self._pause = time.monotonic(), 0.1

    def go_on(self, error: Away) -> None:
        """Let some time pass. Raises StudyError when there was enough of it."""
        self.tries += 1
        away = time.monotonic() - self._since
        if away > PATIENCE:
            raise StudyError(
                f"PostgreSQL at {self._where} has not answered for {away / 60:.0f} min ({error}); start it and run "
                "the same command again. It is a view of the event logs, which have everything"
            ) from None
        line = ""
        if self.tries == 1:
            return  # a connection from before it was started again: the next one may do
        if self.tries == 2:
            line = f"PostgreSQL at {self._where} does not answer ({error}); waiting up to {PATIENCE / 60:.0f} min"
        self._wait(line, self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def over(self) -> None:
        if self.tries > 1:
            away = time.monotonic() - self._since
            self._wait(f"PostgreSQL at {self._where} answers again after {away:.0f} s", 0.0)
