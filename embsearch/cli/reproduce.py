"""embsearch reproduce: train a trial again from its record and say whether the same comes of it."""

from __future__ import annotations

from dataclasses import replace

from embsearch.cli.files import check_new_folder, keep_folder
from embsearch.config.folders import home_folder
from embsearch.config.options import ReproduceOptions
from embsearch.config.schema import Config
from embsearch.errors import ConfigError, StudyError
from embsearch.history import events
from embsearch.history.folder import StudyFolder
from embsearch.launch.local import Local, python_module
from embsearch.registry import mlflow_registry as registry
from embsearch.registry.origin import Origin, is_version, of_run, of_version
from embsearch.report.live import clock
from embsearch.report.past import Past, past
from embsearch.report.record import Record
from embsearch.report.reproduced import Evaluated
from embsearch.reproduce import compared, prepared, train_again, workplace
from embsearch.track.digest import digest, manifest
from embsearch.track.mirror import study_uid
from embsearch.track.mlflow_model import DIGEST
from embsearch.track.unaltered import logged_digest


def run(config: Config, options: ReproduceOptions) -> int:
    """Train again and compare, evaluation by evaluation. Not reproduced ends with exit code 3. ``output=`` keeps the
    new model."""
    output = check_new_folder(options.output)
    then, known = chosen(config, options)
    here, cache = prepared(then, config)
    _say(then)
    command = python_module("embsearch.worker")
    with workplace(home_folder(config.home), then) as folder:
        launcher = Local(
            command, 1, then.threads, folder / "workers", timeout=here.launcher.segment_timeout
        )
        try:
            found, machine, stopped = train_again(
                then, here, cache, folder / "trial", launcher, lambda one: _row(one, then.objective)
            )
        finally:
            launcher.close()
        model = folder / "trial" / "model"
        result = compared(then, found, stopped, machine, model, known, options.tolerance)
        if output is not None and model.exists():
            keep_folder(model, output)
            print(f"model: {output}")
    if result.changed and result.measured_alike:
        print(f"changed since: {'; '.join(result.changed)}")
    print(result.verdict())
    return 0 if result.reproduced else 3


def chosen(config: Config, options: ReproduceOptions) -> tuple[Past, str]:
    """Return the trial that ``trial=``, ``run=`` or ``checkpoint=`` names, by default the study's
    best, and the digest of its saved model where only a registry has it. Raises UserError.
    """
    given = {"trial": options.trial, "run": options.run, "checkpoint": options.checkpoint}
    named = [f"{name}={value}" for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)}: name one trial, not {len(named)}")
    origin = _origin(config, options)
    if origin is not None:
        config = replace(config, study=replace(config.study, name=origin.study))
    record = Record(StudyFolder(config))
    if (
        origin is not None
        and origin.uid
        and origin.uid != (mine := study_uid(record.of_kind(events.Opened)[0]))
    ):
        raise StudyError(
            f"run={options.run} is of {origin.uid}; the study of that name in {record.folder.home} is "
            f"{mine}: another one. Set home to where that study lies"
        )
    number = origin.trial if origin is not None else options.trial
    if number is None:
        if record.best is None:
            raise StudyError(
                f"study {record.name}: nothing was measured, so there is nothing to train again"
            )
        number = record.best.number
    then = past(record, number)
    logged = logged_digest(record.folder, number)
    named_digest = "" if origin is None else origin.digest
    if then.model.exists():
        there = digest(manifest(then.model))
        if named_digest in ("", there) and logged in ("", there):
            return then, ""
        if logged not in ("", there):
            print(f"note: {then.model} is not the model that the trial ended with, by its log")
    return then, named_digest or logged or _digest_in_mlflow(config, record, number)


def _origin(config: Config, options: ReproduceOptions) -> Origin | None:
    if options.run is not None:
        return of_run(registry.registry(config), options.run)
    if options.checkpoint is None:
        return None
    uri = options.checkpoint
    if uri == "champion":
        from embsearch.registry.candidate import registered_name

        uri = f"models:/{registered_name(config)}@champion"
    if not is_version(uri):
        raise ConfigError(
            f"checkpoint={uri}: a folder does not say which trial it is of; expected champion or a registered "
            "version, as checkpoint=shop/3, or name the trial: study=... trial=..."
        )
    return of_version(registry.registry(config), uri)


def _digest_in_mlflow(config: Config, record: Record, number: int) -> str:
    """Return the digest of a model whose folder is gone; empty where MLflow does not have it
    either.
    """
    if not record.config.track.mlflow:
        return ""
    config = replace(record.config, home=config.home, track=config.track)
    uid = study_uid(record.of_kind(events.Opened)[0])
    logged = registry.model_of_trial(registry.registry(config), config, uid, number)
    return "" if logged is None else str(logged.tags.get(DIGEST, ""))


def _say(then: Past) -> None:
    took, count = clock(then.measured[-1].seconds), len(then.measured)
    print(f"trial {then.number} of {then.study}: {count} evaluation{'s' * (count > 1)}, trained in {took} with "
          f"{then.threads} thread{'s' * (then.threads > 1)}")  # fmt: skip
    print(f"data {then.opened.data[:12]}, as recorded")
    if then.runs:
        print(f"it is the mean of {len(then.runs)} runs, which are trained first")
    for note in then.notes:
        print(f"note: {note}")
    print(
        f"{'evaluation':>10}  {'texts':>9}  {then.objective:>12}  {'again':>12}  difference",
        flush=True,
    )


def _row(one: Evaluated, metric: str) -> None:
    before = one.recorded[metric]
    again = ""
    words = "not reached"
    if one.again is not None:
        value = one.again[metric]
        again = f"{value:.10f}"
        words = f"{value - before:+.2g}"
        if one.identical:
            words = f"none, in {len(one.recorded)} metrics"
    print(f"{one.rung:>10}  {one.texts:>9,}  {before:>12.10f}  {again:>12}  {words}", flush=True)
