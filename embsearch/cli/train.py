"""embsearch train: one configuration, no search. A study of one trial, recorded and resumable as any."""

from __future__ import annotations

from dataclasses import replace

from embsearch.cli import launchers, search
from embsearch.cli.files import check_new_folder, keep_folder
from embsearch.config.load import digest
from embsearch.config.options import TrainOptions
from embsearch.config.schema import Config
from embsearch.errors import EmbsearchError
from embsearch.model import lora
from embsearch.model.prompts import say_prompts
from embsearch.report.live import Watch
from embsearch.report.result import show
from embsearch.study.fit_to_data import fit_to_data
from embsearch.study.run import Study
from embsearch.tasks.catalogue import task_of


def run(config: Config, options: TrainOptions) -> int:
    """Train to the end of the budget; with ``output=`` the model is also copied there."""
    lora.check(config)
    output = check_new_folder(options.output)
    config = single(fit_to_data(config)[0])
    say_prompts(config.encoder, task_of(config).one_role)
    watch = Watch()
    recorder = search.recorder(config)
    made = launchers.launcher(config)
    study = Study(config, made, recorder, watch, verbose=options.verbose)
    try:
        result = study.run()
    finally:
        watch.close()
    show(vars(result), study.config.evaluate.metric, task_of(study.config))
    model = study.folder.trial(0) / "model"
    if not model.exists():
        raise EmbsearchError(
            f"no model came of it; 'embsearch status study.name={config.study.name} verbose=true' says why"
        )
    if output is not None:
        keep_folder(model, output)
        model = output
    print(f"model:  {model}")
    print(f"next:   embsearch evaluate checkpoint={model}")
    return 0


def single(config: Config) -> Config:
    """Return the study of one trial that trains ``config`` as it stands."""
    one = replace(
        config,
        space={},
        stop=replace(config.stop, trials=1, target=None),
        scheduler=replace(config.scheduler, name="none"),
        launcher=replace(config.launcher, workers=1),
        study=replace(config.study, defaults=()),
    )
    return replace(
        one, study=replace(one.study, name=f"{config.study.name}-train-{digest(one)[:8]}")
    )
