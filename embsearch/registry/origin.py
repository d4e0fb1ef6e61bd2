"""The trial of a run or of a registered version, by the tags that the recorder and promotion leave
on them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from embsearch.errors import StudyError
from embsearch.track.mlflow_model import DIGEST, UID

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Origin(NamedTuple):
    """``uid`` is the study's (empty where it is not known), ``digest`` that of the saved model
    (empty likewise).
    """

    study: str
    trial: int
    uid: str = ""
    digest: str = ""


def of_run(client: MlflowClient, run_id: str) -> Origin:
    """Return the trial of a run.

    Raises StudyError where there is no such run, or it is no trial's.
    """
    tags = _asked(client, f"run={run_id}", lambda: client.get_run(run_id)).data.tags
    uid, _, number = tags.get(UID, "").rpartition("/t")
    if not uid or not number.isdigit():
        what = (
            f"it is the run of study {tags['embsearch.study']}"
            if tags.get(UID)
            else f"it has no tag {UID}"
        )
        raise StudyError(
            f"run={run_id}: not a trial's run: {what}; give the run of one of a study's trials"
        )
    return Origin(tags["embsearch.study"], int(number), uid)


VERSION = re.compile(r"(?:models:/)?([^/@]+)(?:/(\d+)|@([^/@]+))")


def is_version(checkpoint: str) -> bool:
    """Return true where ``checkpoint`` names a registered version: NAME/VERSION or NAME@ALIAS, also
    in MLflow's words.
    """
    return VERSION.fullmatch(checkpoint) is not None


def of_version(client: MlflowClient, uri: str) -> Origin:
    """Return the trial of ``NAME/3`` or ``NAME@champion``.

    Raises StudyError where there is no such version, or it was not promoted from a study.
    """
    parts = VERSION.fullmatch(uri)
    if parts is None:
        raise StudyError(f"checkpoint={uri}: expected NAME/VERSION or NAME@ALIAS, as shop/3")
    name, version, alias = parts.groups()
    found = _asked(
        client,
        f"checkpoint={uri}",
        lambda: (
            client.get_model_version(name, version)
            if version
            else client.get_model_version_by_alias(name, alias)
        ),
    )
    study, trial = found.tags.get("embsearch.study"), found.tags.get("embsearch.trial", "")
    if not study or not trial.isdigit():
        raise StudyError(
            f"checkpoint={uri}: it has no tags embsearch.study and embsearch.trial, so no 'embsearch promote' made "
            "it; name its study and trial: study=... trial=..."
        )
    return Origin(study, int(trial), digest=found.tags.get(DIGEST, ""))


T = TypeVar("T")


def _asked(client: MlflowClient, what: str, ask: Callable[[], T]) -> T:
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        first = str(error).splitlines()[0]
        raise StudyError(
            f"{what}: {first}; MLflow is asked at {client.tracking_uri}: see home and track.uri"
        ) from error
