"""Jobs to slots and back: the one place that knows which slot has which job, and whether a job whose worker
died goes out again. The search, fresh seeds, ``embsearch plan`` and ``embsearch reproduce`` use it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from embsearch.history.trial import RETRIES, failed_for_good
from embsearch.launch.base import Died, Failed, Halted, Job, Launcher, Message, Note, Points, Ready
from embsearch.study.stopping import STOPPED, Interrupted, Stopping

N = TypeVar("N", bound=Hashable)


@dataclass(frozen=True)
class Returned:
    """A job that came back undone and may go out again. ``failure``: why, empty where it was halted."""

    failure: str = ""


Heard = Message | Returned


@dataclass
class Given(Generic[N]):
    """A job that a slot has."""

    name: N
    job: Job
    retried: bool


class Dispatch(Generic[N]):
    """The slots of one launcher. ``say`` gets lines for whoever watches, in which ``describe`` names a job."""

    def __init__(
        self,
        launcher: Launcher,
        stopping: Stopping | None = None,
        say: Callable[[str], None] = lambda line: None,
        describe: Callable[[N], str] = str,
    ) -> None:
        self.launcher, self._stopping = launcher, stopping
        self._say, self._describe = say, describe
        self._slots: dict[int, Given[N]] = {}
        self._deaths: dict[N, list[str]] = {}  # of retried jobs, since they last made progress
        self._unheard: deque[tuple[int, Message]] = deque()

    @property
    def idle(self) -> list[int]:
        """The slots that can take a job now."""
        return [slot for slot in self.launcher.idle if slot not in self._slots]

    @property
    def given(self) -> set[N]:
        """The names of the jobs that slots have."""
        return {given.name for given in self._slots.values()}

    @property
    def unheard(self) -> bool:
        """True where messages have come that were not returned yet."""
        return bool(self._unheard)

    def give(self, slot: int, name: N, job: Job, retried: bool = False) -> None:
        """Give a job to an idle slot. ``retried``: its deaths are counted here, and it comes back as Returned while
        it may go out again."""
        self._slots[slot] = Given(name, job, retried)
        self.launcher.submit(slot, job)

    def hear(self, timeout: float = 1.0) -> tuple[N, Heard] | None:
        """Return the next message with the name of its job; None where none came within ``timeout`` seconds, or
        none that anybody has to act on."""
        if not self._unheard:
            self._unheard.extend(self.launcher.wait(timeout))
        if not self._unheard:
            return None
        slot, message = self._unheard.popleft()
        if isinstance(message, Note):
            self._say(message.text)
            return None
        given = self._slots.get(slot)
        if given is None or isinstance(message, Ready):
            return None
        if isinstance(message, Points):
            return given.name, message
        del self._slots[slot]
        return given.name, self._judge(given, message)

    def _judge(self, given: Given[N], message: Message) -> Heard:
        """Return the end of a job, as Returned where it may go out again."""
        halting = self._stopping is not None and self._stopping.halting
        if isinstance(message, Halted) or (halting and isinstance(message, Died)):
            return Returned()
        if not isinstance(message, (Failed, Died)):
            self._deaths.pop(given.name, None)
            return message
        if not given.retried:
            return message
        deaths = self._deaths.setdefault(given.name, [])
        deaths.append(message.failure)
        if message.failure in RETRIES:
            self._say(f"{self._describe(given.name)}: {message.message.splitlines()[0]}")
        if message.failure not in RETRIES or failed_for_good(message.failure, deaths):
            return message
        return Returned(message.failure)

    def ask(self, jobs: Mapping[int, tuple[N, Job]]) -> dict[int, Message]:
        """Give each slot its job and return their ends, once all have come. A job whose worker died goes out again,
        a few times. Raises Interrupted where a stop was asked for."""
        left, answers = dict(jobs), dict[int, Message]()
        slots = {name: slot for slot, (name, _) in jobs.items()}
        while len(answers) < len(jobs):
            if self._stopping is not None and self._stopping.asked:
                raise Interrupted(STOPPED)
            for slot in self.idle:
                if slot in left:
                    name, job = left.pop(slot)
                    self.give(slot, name, job, retried=True)
            heard = self.hear()
            if heard is None or isinstance(heard[1], Points):
                continue
            name, end = heard
            if isinstance(end, Returned):
                left[slots[name]] = jobs[slots[name]]
            else:
                answers[slots[name]] = end
        return answers
