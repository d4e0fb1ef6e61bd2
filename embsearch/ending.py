"""The end of a study: the best configurations are trained again with fresh seeds, and the test rows are read once, by
the untuned encoder, the default configuration and the winner.

Like the search, it holds no state that the logs do not: killed anywhere, it goes on from there.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from embsearch.config.build import to_dict
from embsearch.data.dataset import Dataset
from embsearch.errors import EmbsearchError, UserError
from embsearch.history import Run, Trial
from embsearch.launch.base import Launcher, Message, Task
from embsearch.registry import looks
from embsearch.search.confirm import Confirmed, affordable, too_small
from embsearch.stopping import STOPPED, Interrupted
from embsearch.track.digest import digest, manifest
from embsearch.values import Measurement, Segment, record

if TYPE_CHECKING:
    from embsearch.study import Study

K = TypeVar("K", bound=Hashable)


class Ending:
    """What a study does when its search is over."""

    def __init__(self, study: Study, launcher: Launcher) -> None:
        self.study, self.launcher = study, launcher

    # ---- the best once more ----------------------------------------------------------------

    def confirm(self) -> list[Confirmed]:
        """The best configurations with the values of fresh seeds, the best by their mean first. Those of a study that
        was extended are among them with what they have."""
        study = self.study
        config, name = study.config, study.config.evaluate.objective
        trials = [t for t in study.trials.in_state("complete") if t.best is not None]
        trials.sort(key=lambda t: (-(t.best or 0.0), t.number))
        spent = sum(t.texts_seen * t.searched for t in study.trials.values())
        top, seeds = affordable(config.confirm, spent, config.train.texts)
        if config.launcher.name == "replay" or not trials:
            return []
        if not top:
            study.say(f"the best are not trained again: {too_small(config.confirm)}")
        runs = [(t, t.searched + i) for t in trials[:top] for i in range(seeds)]
        lost = self._lost()
        todo = {
            (t.number, s): self._next_segment(t, s) for t, s in runs if not t.nth(s).last and s not in lost[t.number]
        }
        for trial, seed in runs:
            if trial.nth(seed).last:  # a process died between its last line and this
                shutil.rmtree(study.folder.run(trial.number, seed), ignore_errors=True)
        if todo:
            study.say(f"training the best {top if top > 1 else 'one'} again with {seeds} fresh seeds")
        self._work(todo, self._took_segment, _run_words)
        lost = self._lost()
        found = []
        for trial in trials:
            values = tuple(self._value(run) for run in trial.runs[trial.searched :] if run.last)
            if values and trial.best is not None:
                found.append(Confirmed(trial.number, trial.best, values, failed=len(lost[trial.number])))
        found.sort(key=lambda one: (one.failed > 0, -one.mean, one.trial))
        known = [(e["trial"], e["values"]) for e in study.folder.log_of_kind("confirmed")]
        for one in found:
            if (one.trial, list(one.values)) not in known:
                study.log("confirmed", **record(one), mean=one.mean, luck=one.luck)
            study.say(f"trial {one.trial}: {name} {one.words}")
        return found

    def _lost(self) -> dict[int, set[int]]:
        """Fresh seeds that failed for good, by trial."""
        found: dict[int, set[int]] = defaultdict(set)
        for event in self.study.folder.log_of_kind("unconfirmed"):
            found[event["trial"]].add(event["seed"])
        return found

    def _value(self, run: Run) -> float:
        """The best a run measured, of what was measured on as many rows as any."""
        rows = [reading.rows for reading in self.study.readings]
        most = max((rows[rung - 1] for rung in run.values), default=0) if rows else 0
        return max(value for rung, value in run.values.items() if not rows or rows[rung - 1] == most)

    def _next_segment(self, trial: Trial, seed: int) -> Task:
        study, at = self.study, trial.nth(seed).rung
        return study.segment_task(self.launcher, trial, Segment(trial.number, trial.attempt, at, at + 1, seed))

    def _took_segment(self, key: tuple[int, int], message: Message) -> Task | None:
        """Log what a fresh seed measured; its next segment, None where it has come to its end."""
        study, (number, seed) = self.study, key
        trial, folder = study.trials[number], study.folder.run(number, seed)
        if message["kind"] == "points":
            new = [p for p in message["points"] if p[0] > trial.nth(seed).last_point]
            if new:
                study.log_trial(trial, "points", points=new, seed=seed)
                trial.nth(seed).last_point = new[-1][0]
            return None
        if message["kind"] != "measured":
            if message["failure"] == "disk_full":
                raise UserError(
                    f"trial {number}: {message['message']}: free some space and run the same command again"
                )
            if message["failure"] == "data":
                raise UserError(f"trial {number}: {message['message']}\nmend it and run the same command again")
            study.log("unconfirmed", trial=number, seed=seed, failure=message["failure"], message=message["message"])
            study.say(f"trial {number} with seed {seed}: {message['failure']}: {message['message'].splitlines()[0]}")
            shutil.rmtree(folder, ignore_errors=True)
            return None
        study.got_on(_run_words(key))
        measured = Measurement(**message["measurement"])
        run, name = trial.nth(seed), study.config.evaluate.objective
        if measured.rung not in run.values:
            study.log_trial(trial, "repeated", **record(measured), seed=seed, seeds=seed + 1)
        run.values[measured.rung], run.last = measured.metrics[f"val/{name}"], measured.why
        study.say(f"trial {number}, seed {seed} at rung {measured.rung}: {name} {run.values[measured.rung]:.4f}")
        if not run.last:
            return self._next_segment(trial, seed)
        shutil.rmtree(folder, ignore_errors=True)
        return None

    # ---- the test rows ---------------------------------------------------------------------

    def test(self, best: Trial | None) -> list[dict[str, Any]]:
        """The table of the study, each row's model measured on the test rows once."""
        study = self.study
        rows: list[tuple[str, int | None]] = [("untuned encoder", None)]
        if 0 in study.trials and study.trials[0].best is not None:
            rows.append(("default configuration", 0))
        if best is not None:
            rows.append(("best trial", best.number))
        self.tested = {e["label"]: e for e in study.folder.log_of_kind("tested") if study.measured_as_now(e)}
        todo = {
            (label, number): self._evaluation(label, number)
            for label, number in rows
            if self.tested.get(label, {}).get("trial", "none") != number
        }
        self._work(todo, self._took_test, lambda key: f"evaluating the {key[0]}")
        table = []
        for label, number in rows:
            validation = (study.baseline or {}) if number is None else {}
            value = validation.get(study.config.evaluate.objective) if number is None else study.validation(number)
            table.append({"label": label, "trial": number, "validation": value, "split": self.split,
                          "test": self.tested[label]["metrics"], "auc": self.tested[label]["auc"]})  # fmt: skip
        return table

    @property
    def split(self) -> str:
        return "test" if self.study.has_test else "valid"

    def _evaluation(self, label: str, number: int | None) -> Task:
        study = self.study
        return {
            "do": "evaluate", "split": self.split, "full": True,
            "model": None if number is None else str(study.folder.trial(number) / "model"),
            "config": to_dict(study.config), "cache": str(study.cache), "keep": str(study.folder.tested(label)),
        }  # fmt: skip

    def _took_test(self, key: tuple[str, int | None], message: Message) -> None:
        study, (label, number) = self.study, key
        if message["kind"] != "evaluated":
            raise EmbsearchError(f"evaluating the {label} on the {self.split} rows: {message['message']}")
        files = {} if number is None else manifest(study.folder.trial(number) / "model")
        if label == "best trial" and self.split == "test":
            rows = looks.test_rows(Dataset.load(study.cache))
            by = f"study {study.config.study.name}, trial {number}"
            if warning := looks.warning(looks.look(study.folder.home, rows, digest(files), by)):
                study.say(warning)
        self.tested[label] = study.log(
            "tested", label=label, trial=number, split=self.split, metrics=message["metrics"],
            auc=message["auc"], segments=message["segments"], seconds=message["seconds"],
            files=files, **study.measured_with(),
        )  # fmt: skip

    # ---- both ------------------------------------------------------------------------------

    def _work(self, todo: dict[K, Task], took: Callable[[K, Message], Task | None], what: Callable[[K], str]) -> None:
        """Give out tasks until all have come back; ``took`` may answer with the next of the same key. A task whose
        worker died goes out again, a few times. Raises Interrupted."""
        study, launcher = self.study, self.launcher
        waiting, running = list(todo), dict[int, K]()
        while waiting or running:
            for slot in launcher.idle:
                if waiting and not study.stopping.asked:
                    running[slot] = waiting.pop(0)
                    launcher.submit(slot, todo[running[slot]])
            if study.stopping.asked and (not running or study.stopping.late):
                raise Interrupted(STOPPED)
            for slot, message in study.wait(launcher):
                if slot not in running:
                    continue
                key, kind = running[slot], message["kind"]
                if kind == "points":
                    took(key, message)
                elif kind == "halted" or (kind == "died" and study.stopping.halting):
                    waiting.append(running.pop(slot))
                elif study.goes_out_again(what(key), message):
                    if message["failure"] == "checkpoint":  # from the base weights, then
                        (Path(todo[key]["folder"]) / "checkpoint.safetensors").unlink(missing_ok=True)
                    waiting.append(running.pop(slot))
                elif kind in ("measured", "evaluated", "failed", "died"):
                    del running[slot]
                    following = took(key, message)
                    if following is not None:
                        todo[key] = following
                        waiting.insert(0, key)


def _run_words(key: tuple[int, int]) -> str:
    return f"trial {key[0]} with seed {key[1]}"
