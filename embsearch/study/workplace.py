"""A study's data and files as the coordinator uses them: what a job needs, and what may go."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from embsearch.config.build import build, to_dict, with_values
from embsearch.config.schema import Config
from embsearch.data.dataset import TaskData
from embsearch.data.remote import is_there
from embsearch.history import events
from embsearch.history.events import Event
from embsearch.history.final_table import JUDGED
from embsearch.history.folder import StudyFolder
from embsearch.history.state import StudyState
from embsearch.history.trial import Trial
from embsearch.hpo import encoders
from embsearch.hpo.confirm import estimated
from embsearch.hpo.earlier import studies_of
from embsearch.hpo.space import Space
from embsearch.hpo.suggest import check_kinds, first_points
from embsearch.hpo.warmup import Warmups
from embsearch.launch.base import (
    EvaluateJob,
    TrainJob,
    points_every,
)
from embsearch.study.actions import Average
from embsearch.tasks.catalogue import task_of
from embsearch.track.digest import digest, manifest
from embsearch.track.environment import environment
from embsearch.track.unaltered import checked_trial
from embsearch.values import EarlierStudy, Origin, Scalar, Segment, Suggestion

Noted = tuple[Event, int | None]


class Workplace:
    """The jobs and files of one study."""

    def __init__(
        self,
        config: Config,
        space: Space,
        folder: StudyFolder,
        state: StudyState,
        cache: Path,
        data: TaskData,
        like: Sequence[EarlierStudy] | None = None,
    ) -> None:
        self.config, self.space, self.folder, self.state = config, space, folder, state
        self.cache, self.data, self._like = cache, data, like
        self.split = "test" if len(task_of(config).rows(data, "test")) else "valid"

    @staticmethod
    def prepare(config: Config, space: Space, folder: StudyFolder, state: StudyState) -> Workplace:
        """Prepare the data and lock the config. Raises UserError where settings cannot learn on the data, or config
        or data are not those that the study began with."""
        known = [study.name for study in state.like]
        like = None if known == list(config.study.like) else studies_of(config)
        task = task_of(config)
        cache = task.prepare(config.data, folder.home / "cache")
        data = task.load(cache)
        task.preflight(config, {one.path: one.values for one in space.dimensions}, data)
        folder.check_data(data.fingerprint)
        made = Workplace(config, space, folder, state, cache, data, like)
        if folder.locked.exists():
            check_kinds(space, build(folder.read_locked()["config"]))
        else:  # what an older version began goes on
            made.warmups.check()
        folder.lock_config()
        return made

    @staticmethod
    def compare_data(config: Config, folder: StudyFolder, say: Callable[[str], None]) -> None:
        """Raise StudyError where an ended study's files hold other data; say if they are gone."""
        asked = config.data
        if gone := [path for path in asked.named if not is_there(path)]:
            say(f"the data could not be compared with the study's: {', '.join(gone)} is gone")
            return
        task = task_of(config)
        data: TaskData = task.load(task.prepare(asked, folder.home / "cache"))
        folder.check_data(data.fingerprint)

    @property
    def judges(self) -> bool:
        """True where the best models are measured on all validation rows: trials were not."""
        task, most = task_of(self.config), self.config.evaluate.max_rows
        unread = len(task.rows(self.data, "valid")) > len(task.rows(self.data, "valid", most))
        return unread and estimated(self.config) and self.config.launcher.name != "replay"

    @property
    def warmups(self) -> Warmups:
        """The warm-ups of the trials."""
        steps = partial(task_of(self.config).steps, self.data, self.config.train.texts)
        return Warmups(self.config, self.space, steps)

    def opened(self) -> events.Opened:
        """Return the beginning of a session."""
        study = self.config.study
        return events.Opened(
            name=study.name,
            task=study.task,
            question=study.question,
            home_id=self.folder.home_id,
            data=self.data.fingerprint,
            config=self.folder.digest,
            rows=self.data.report,
            environment=environment(),
            like=self._like,
        )

    def created(self, suggestion: Suggestion) -> events.Created:
        """Return the beginning of a trial, whose config is written first."""
        config = self.config_of(suggestion.params)
        self.folder.write_trial_config(suggestion.trial, to_dict(config))
        return events.Created(
            trial=suggestion.trial,
            params=suggestion.params,
            axes=self.space.axes(suggestion.params, self.config),
            attributes=suggestion.attributes,
            origin=suggestion.origin,
        )

    def soup(self, average: Average) -> events.Created:
        """Return the beginning of a soup."""
        params = self.state.trials[average.trial].params
        return events.Created(
            trial=average.number,
            params=params,
            axes=self.space.axes(params, self.config),
            origin="soup",
            members=[(average.trial, run) for run in average.runs],
        )

    def trials_without_logs(self) -> Iterator[events.Created]:
        """Yield the beginning of each trial that has a config and no log, because a process died before its first
        event, or its log was lost."""
        _, *given = first_points(self.config, self.space)
        for number, config in self.folder.trial_configs():
            if number not in self.state.trials:
                params = self.space.default(build(config))
                axes = self.space.axes(params, self.config)
                origin: Origin = "given" if number and params in given else ""
                yield events.Created(trial=number, params=params, axes=axes, origin=origin)

    def ended(self, event: events.Ended, number: int) -> events.Ended:
        """Return the end of a trial with its model's folder, where there is one, and its digest."""
        path = self.folder.trial(number) / "model"
        if not path.exists():
            return event
        files = manifest(path)
        return replace(event, model=str(path), digest=digest(files) if files else "")

    # ---- jobs --------------------------------------------------------------------------------

    def config_of(self, params: Mapping[str, Scalar], seed: int = 0) -> Config:
        """Return the config of a trial's run."""
        config = with_values(self.config, params)
        if not seed:
            return config
        return replace(config, train=replace(config.train, seed=config.train.seed + seed))

    def training(self, segment: Segment, workers: int) -> TrainJob:
        """Return the job of a segment, for one of so many workers. Raises ModelError where a soup's
        first member is not as it was.
        """
        trial = self.state.trials[segment.trial]
        if trial.is_soup:
            checked_trial(self.folder, trial.averaged)
        config = self.config_of(trial.params, segment.seed)
        if trial.is_soup and not (self.folder.trial(trial.number) / "config.yaml").exists():
            self.folder.write_trial_config(trial.number, to_dict(config))  # after its log
        return TrainJob(
            segment=segment,
            config=to_dict(config),
            folder=str(self.folder.run(segment.trial, segment.seed)),
            cache=str(self.cache),
            queries=tuple(reading.queries for reading in self.state.readings),
            points_every=points_every(workers),
            members=tuple(str(self.folder.run(*member) / "model") for member in trial.members),
        )

    def evaluation(self, label: str, number: int | None) -> EvaluateJob:
        """Return the job of a row of the final table, or of the untuned encoder on the validation rows."""
        model = None if number is None else str(self.folder.trial(number) / "model")
        if label.startswith(JUDGED):
            return EvaluateJob("valid", to_dict(self.config), str(self.cache), model, most=0)
        if label != "baseline":
            keep = str(self.folder.tested(label))
            return EvaluateJob(
                self.split, to_dict(self.config), str(self.cache), model, full=True, keep=keep
            )
        more = tuple(to_dict(one) for one in encoders.others(self.space, self.config))
        config = encoders.untuned(self.space, self.config)
        return EvaluateJob("valid", to_dict(config), str(self.cache), others=more)

    # ---- files -------------------------------------------------------------------------------

    def clear(self, trial: Trial) -> None:
        """Remove what only a trial that goes on needs: checkpoints, the runs of its other seeds."""
        self.checkpoint(trial.number, 0).unlink(missing_ok=True)
        for seed in range(1, trial.searched):
            shutil.rmtree(self.folder.run(trial.number, seed), ignore_errors=True)

    def clear_fresh(self, number: int, seed: int) -> None:
        """Remove what a run with a fresh seed left when it came to its end, but for the model of
        what a soup may be made of.
        """
        if self.config.confirm.soup:
            self.checkpoint(number, seed).unlink(missing_ok=True)
        else:
            shutil.rmtree(self.folder.run(number, seed), ignore_errors=True)

    def sweep(self) -> None:
        """Remove what processes that died did not remove: files of trials and of fresh seeds that have ended."""
        for trial in self.state.trials.values():
            if trial.outcome is None:
                continue
            self.clear(trial)
            for seed in range(trial.searched, len(trial.runs)):
                if trial.ended_by_itself(seed):
                    self.clear_fresh(trial.number, seed)

    def checkpoint(self, number: int, seed: int) -> Path:
        """Return the path of a run's checkpoint."""
        return self.folder.run(number, seed) / "checkpoint.safetensors"
