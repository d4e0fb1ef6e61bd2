"""The fields of a run in MLflow: parameters, tags, notes and colours of a study and its trials.

Pure: nothing here asks MLflow.
"""

from __future__ import annotations

import colorsys
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from embsearch.config.schema import Config
from embsearch.history.final_table import label_of
from embsearch.history.trial import Trial
from embsearch.track.mirror import StudyMirror, TrialMirror, short_names, validation
from embsearch.track.mlflow_view import facts
from embsearch.values import Scalar

_HUES = {
    "complete": (150, 70),
    "pruned": (28, 30),
    "failed": (352, 12),
    "running": (215, 20),
}  # degrees, width


class RunFields:
    """The fields of the runs of one study, as its config asks for them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._objective = validation(config.evaluate.metric)
        self._names = short_names(config.space)
        self._logarithmic = {
            name
            for path, name in self._names.items()
            if isinstance(dimension := config.space[path], Mapping) and dimension.get("log")
        }

    def params(self, mirror: TrialMirror) -> dict[str, Scalar]:
        """Return a trial's axes as parameters.

        MLflow's charts have no logarithmic axes. So a parameter that is searched by its logarithm
        is there as a logarithm, too.
        """
        params: dict[str, Scalar] = {}
        for axis, value in mirror.axes.items():
            name = _param(axis)
            params[name] = value
            if axis in self._logarithmic and isinstance(value, (int, float)) and value > 0:
                params[f"log10 {name}"] = round(math.log10(value), 4)
        return params

    def _active(self, mirror: TrialMirror) -> dict[str, Scalar]:
        """Return the parameters that were active, by short name."""
        return {
            _param(self._names.get(path, path)): value
            for path, value in mirror.trial.params.items()
        }

    def columns(self, axes: Sequence[str] | None) -> tuple[list[str], list[str]]:
        """Return the searched parameters as the table shows them, and as charts take them."""
        axes = list(self._names.values()) if axes is None else axes
        plotted = [f"log10 {_param(a)}" if a in self._logarithmic else _param(a) for a in axes]
        return [_param(a) for a in axes], plotted

    def study_tags(
        self, study: StudyMirror, trials: Sequence[TrialMirror], live: bool
    ) -> dict[str, str]:
        """Return the tags of the parent run. Empty ones are left out."""
        environment = study.environment
        counts = Counter(mirror.trial.state for mirror in trials)
        failures = Counter(
            failure.replace("_", " ") for mirror in trials for failure in mirror.trial.failures
        )
        state = study.state if live else "interrupted"
        if study.state == "closed":
            state = "complete"
        tags = {
            "embsearch.role": "study",
            "embsearch.state": state,
            "embsearch.objective": self._objective,
            "embsearch.question": self._config.study.question,
            "embsearch.trials": ", ".join(f"{n} {state}" for state, n in sorted(counts.items())),
            "embsearch.failures": ", ".join(
                f"{n} {failure}" for failure, n in failures.most_common()
            ),
            "embsearch.data": self.dataset,
            "embsearch.data_digest": data_digest(study),
            "embsearch.config_digest": study.opened.config if study.opened is not None else "",
            "embsearch.promoted": study.promoted,
            "mlflow.source.git.commit": str(environment.get("git_commit") or ""),
            "embsearch.git_dirty": str(environment.get("git_dirty", "")),
            "embsearch.host": str(environment.get("host", "")),
        }
        leader = study.leader
        if leader is not None and leader.best is not None:
            tags["embsearch.best"] = f"{leader.best:.4f}"
            tags["embsearch.best_trial"] = f"t{leader.number:04d}"
        untuned = study.baseline.get(self._objective.removeprefix("val/"))
        if untuned is not None:
            tags["embsearch.baseline"] = f"{untuned:.4f}"
        ended = f"Ended: {study.why}" if study.why else ""
        tags["mlflow.note.content"] = "\n\n".join(
            filter(None, (self._config.study.question, " · ".join(facts(tags)), ended))
        )
        return {name: tag for name, tag in tags.items() if tag}

    def trial_tags(
        self, mirror: TrialMirror, study: StudyMirror, folder: Path, live: bool
    ) -> dict[str, str]:
        """Return the tags of a child run. Empty ones stay in: a retried trial has no reason any
        more.
        """
        environment = study.environment
        trial = mirror.trial
        state: str = trial.state
        if state == "running" and not live:
            state = "interrupted"
        config = folder / "config.yaml"
        active = self._active(mirror)
        return {
            "embsearch.role": "trial",
            "embsearch.trial": str(mirror.number),
            "embsearch.state": state,
            "embsearch.given": label_of(trial) if trial.given else "",
            "embsearch.reason": trial.why[:500],
            "embsearch.failure": mirror.failure,
            "embsearch.failures": ", ".join(trial.failures)[:500],
            "embsearch.inactive": ", ".join(
                sorted({_param(axis) for axis in mirror.axes} - set(active))
            ),
            "embsearch.config_digest": (
                hashlib.sha256(config.read_bytes()).hexdigest() if config.exists() else ""
            ),
            "embsearch.data_digest": data_digest(study),
            "mlflow.source.git.commit": str(environment.get("git_commit") or ""),
            "mlflow.runColor": _colour(trial.state, trial.number),
            "mlflow.note.content": _note(trial, state, self._objective, active),
        }

    @property
    def dataset(self) -> str:
        """The name of the data."""
        data = self._config.data
        if data.sets:
            return ", ".join(data.sets)[:500]
        path = data.path or data.train
        return Path(path).stem[:500] if path else self._config.study.task


def data_digest(study: StudyMirror) -> str:
    """Return the data's fingerprint, cut to what MLflow takes."""
    return str(study.data)[:36]


def _note(trial: Trial, state: str, objective: str, params: Mapping[str, Scalar]) -> str:
    """Return two lines: how the trial went and why it stopped; its parameters."""
    given = f"{label_of(trial)}, " if trial.given else ""
    if trial.is_soup:
        given = f"{trial.recipe}, "
    how = f"**{given}{state}** after {trial.runs[0].rung} evaluations, {trial.texts_seen:,} texts, "
    how += f"{trial.seconds:.0f} s"
    if trial.best is not None:
        how += f"; best {objective} {trial.best:.4f}"
    if trial.why:
        how += f": {trial.why[:1000]}"
    what = ", ".join(f"{name} {_short(value)}" for name, value in params.items())
    return f"{how}\n\n{what}"


def _param(axis: str) -> str:
    """Return an axis as MLflow's parameter.

    Parallel coordinates leaves out a parameter that has the name of the metric beside it.
    """
    return "loss" if axis == "objective" else axis


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _colour(state: str, number: int) -> str:
    """Return a curve's colour: the state gives the hue, the number moves it a little."""
    hue, width = _HUES.get(state, (265, 20))
    turn = number * 0.618 % 1.0  # golden ratio: neighbours differ most
    turned = (hue + width * (turn - 0.5)) / 360
    lightness = 0.38 + 0.18 * (number * 0.382 % 1.0)
    rgb = colorsys.hls_to_rgb(turned % 1.0, lightness, 0.62)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
