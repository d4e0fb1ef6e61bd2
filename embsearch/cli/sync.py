"""embsearch sync: bring the config's recorders up to date with a study's event logs, from nothing if need be."""

from __future__ import annotations

from embsearch.config.build import build, to_dict
from embsearch.config.options import Options
from embsearch.config.schema import Config
from embsearch.errors import EmbsearchError
from embsearch.history.folder import StudyFolder, holder
from embsearch.track import recorders


def run(config: Config, options: Options) -> int:
    """Replay the logs; every point is there once afterwards.

    Raises StudyError if the study has not been begun, EmbsearchError while a view is away.
    """
    folder = StudyFolder(config)
    began = build(
        folder.read_locked()["config"] | {"track": to_dict(config.track), "home": config.home}
    )
    folder.state()  # refuses a damaged log; the recorder would wait for its writer to mend it
    recorder = recorders.make(began, folder.path, live=bool(holder(folder.path / "lock")))
    pending = recorder.sync()
    if pending:
        raise EmbsearchError(
            f"{pending} events are not in {recorder.view} yet: {recorder.problem}; run the same command again"
        )
    print(f"study {config.study.name}: up to date in {recorder.view}")
    if recorder.problem:
        print(recorder.problem)
    return 0
