"""The card of a model: what it is, what it was trained on, how good it is and where not, how to
make it again. Markdown with the front matter that the Hugging Face hub reads. All of it is the
record's, or was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from embsearch import __version__
from embsearch.codec import Json, JsonObject
from embsearch.config.build import to_dict, with_values
from embsearch.config.catalogue import OBJECTIVES
from embsearch.config.command import same_study
from embsearch.config.schema import ModelConfig
from embsearch.config.sets import of_set
from embsearch.errors import StudyError
from embsearch.history import events
from embsearch.model.base_model import Base, base_of
from embsearch.model.files import ADAPTER
from embsearch.model.prompts import used
from embsearch.report.card_scores import CardScores, RowScores
from embsearch.report.findings import findings
from embsearch.report.live import short
from embsearch.report.ranges import range_words
from embsearch.report.record import Course, Record
from embsearch.report.texts import lengths, scripts
from embsearch.tasks.catalogue import task_of
from embsearch.track.digest import manifest, weights_digest
from embsearch.track.mlflow_model import dimension

TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction", "embsearch")
SHOWN = ("embsearch", "torch", "transformers", "sentence-transformers", "tokenizers", "numpy")

USES = {  # how its texts are encoded: True where they have one role
    False: (
        'query, title = model.encode_query("a query"), model.encode_document("a title")',
        "model.similarity(query, title)",
    ),
    True: (
        'one, other = model.encode(["a text", "another text"])',
        "model.similarity(one, other)",
    ),
}


def card(record: Record, trial: int | None = None, evidence: RowScores | None = None) -> str:
    """Return the card of a trial's model as Markdown.

    Without ``evidence`` it lacks what only single rows tell: paired gains, thresholds, texts;
    ``cli.card.evidence`` gathers it. Raises StudyError as ``chosen`` does.
    """
    course = chosen(record, trial)
    one, scores = Card(record, course, evidence), CardScores(record, course, evidence)
    sections = [
        one.front,
        one.head,
        one.use,
        scores.results,
        scores.cosine,
        one.data,
        one.training,
        one.limits,
    ]
    return (
        "\n\n".join("\n".join(lines) for make in [*sections, one.again] if (lines := list(make())))
        + "\n"
    )


def chosen(record: Record, trial: int | None = None) -> Course:
    """Return the trial that a card is about: the study's best unless named.

    Raises StudyError where there is no model to describe, or the study has not ended.
    """
    if record.result is None:
        raise StudyError(
            f"study {record.name} has not ended, so its models are not tested; see 'embsearch status'"
        )
    if trial is None:
        if record.best is None:
            raise StudyError(
                f"study {record.name}: no trial was measured, so there is no model to describe"
            )
        trial = record.best.number
    record.check_trial(trial)
    course = record.courses[trial]
    if course.best is None:
        raise StudyError(
            f"trial={trial} of study {record.name} was never measured: {course.trial.why}"
        )
    return course


class Card:
    """The sections that the record tells, each as lines."""

    def __init__(self, record: Record, course: Course, evidence: RowScores | None) -> None:
        self.record, self.course, self.evidence = record, course, evidence
        self.config = with_values(record.config, course.trial.params)
        # a home may have moved since
        self.study = same_study(replace(record.config, home=record.folder.config.home))
        self.base: Base = base_of(self.config.model)
        self.model: Path = record.folder.trial(course.number) / "model"

    @property
    def is_best(self) -> bool:
        return self.course is self.record.best

    def front(self) -> Iterator[str]:
        """Return YAML, which the hub reads."""
        said = {
            "base_model": self.base.name,
            "library_name": "sentence-transformers",
            "pipeline_tag": "sentence-similarity",
            "license": self.base.license,
            "tags": list(TAGS),
        }
        yield "---"
        yield yaml.safe_dump(said, sort_keys=False, allow_unicode=True).rstrip()
        yield "---"

    def head(self) -> Iterator[str]:
        width, count = dimension(self.model), len(self.record.searched)
        yield f"# {self.record.config.study.task}: trial {self.course.number} of study {self.record.name}"
        yield ""
        yield (
            f"{self.base.name}, fine-tuned so that {task_of(self.record.config).purpose}."
            f"{f' Vectors have {width} dimensions.' if width > 0 else ''} "
            f"{f'The best of {count} trials' if self.is_best else f'One of {count} trials, not the best,'} of a "
            f"hyperparameter search by embsearch {__version__}."
        )
        if question := self.record.config.study.question:
            yield f"The study's question: *{question}*"
        yield ""
        if self.base.license == "unknown":
            yield "Licence of the base model: unknown. Find it before this model is passed on."
        else:
            yield f"Licence of the base model, as its README names it: {self.base.license}."

    def use(self) -> Iterator[str]:
        one_role = task_of(self.record.config).one_role
        yield from (
            "## Use",
            "",
            "```python",
            "from sentence_transformers import SentenceTransformer",
            "",
            'model = SentenceTransformer("FOLDER")  # the one that holds modules.json',
            *USES[one_role],
            "```",
            "",
        )
        yield f"Or: `embsearch encode {self.study} trial={self.course.number} input=texts.txt output=vectors.npy`."
        prompts, _ = used(ModelConfig(str(self.model)))
        if one_role and any(prompts.values()):
            yield f"Its prompt, which `encode` puts before texts: {prompts['query']!r}."
        elif any(prompts.values()):
            yield (
                "Prompts, which `encode_query` and `encode_document` put before texts: "
                f"{prompts['query']!r} before queries, {prompts['document']!r} before documents."
            )
        if (self.model / ADAPTER).is_dir():
            yield "The weights have the LoRA adapter in them; `adapter/` holds it alone, for peft."
        promoted = [
            event.version
            for event in self.record.of_kind(events.Promoted)
            if event.version and event.trial == self.course.number
        ]
        if promoted:
            name, version = promoted[-1]["name"], promoted[-1]["version"]
            yield f"Registered as `models:/{name}/{version}`; `models:/{name}@champion` is the version in use."

    def data(self) -> Iterator[str]:
        opened = self.record.of_kind(events.Opened)
        report: Json = opened[-1].rows if opened else {}
        yield "## Data"
        yield ""
        yield f"Fingerprint `{self.record.data}`."
        for name, one in report.get("sets", {"": report}).items():
            yield from ("", f"### {name}", "") if name else ()
            yield from _files(one)
        yield from self._sets()

    def _sets(self) -> Iterator[str]:
        """Yield what the sets of data had of the batches, and count in the mean."""
        sets = self.config.data.sets
        if not sets:
            return
        yield from ("", "| set | share | weight | metric | loss | query prompt | document prompt |")
        yield f"|{'---|' * 7}"
        for name in sets:
            one, alone = sets[name], of_set(self.config, name)
            prompts = alone.model.prompts
            cells = (name, f"{one.share:.4g}", f"{one.weight:g}", one.metric, alone.objective.loss)
            yield f"| {' | '.join((*cells, repr(prompts.query), repr(prompts.document)))} |"
        yield ""
        yield f"Trials were chosen by {task_of(self.config).primary.in_words}."
        if self.config.encoder is not self.config.model:
            yield "The prompts of a set are in the model: `prompt_name` is the set's name, then "
            yield f"`_query` or `_document`, as `{next(iter(sets))}_query`."

    def training(self) -> Iterator[str]:
        record, own, kept = self.record, self.course.own, self.course.saved
        assert kept is not None, "chosen asked for a trial that was measured"
        yield "## Training"
        yield ""
        if members := self.course.trial.members:
            drawn = ", ".join(str(self.config.train.seed + run) for _, run in members)
            yield (
                f"The weights are the {self.course.trial.recipe}, with the seeds {drawn}; each was "
                f"shown {own[-1].texts:,} texts in {own[-1].step:,} steps."
            )
        else:
            yield (
                f"{own[-1].texts:,} texts shown in {own[-1].step:,} steps. This is the model of "
                f"evaluation {kept.rung} of {len(own)}, after {kept.texts:,} texts: the best on "
                "the validation rows."
            )
        yield ""
        yield "```yaml"
        yield yaml.safe_dump(self._settings(), sort_keys=False, allow_unicode=True).rstrip()
        yield from ("```", "")
        if record.space.dimensions:
            yield from ("| searched | range | this model |", "|---|---|---|")
            for one in record.space.dimensions:
                used = one.path in self.course.trial.params
                value = short(self.course.trial.params[one.path]) if used else "not used"
                yield f"| {one.path} | {range_words(one)} | {value} |"
            yield ""
        counts = ", ".join(
            f"{n} {state}" for state, n in (record.result or {}).get("counts", {}).items() if n
        )
        search, seeds = record.config, record.config.study.seeds
        yield (
            f"The search maximised validation {record.objective}, with {record.texts:,} texts in "
            f"{_time(record.seconds)}: {counts} trials, {seeds} seed{'s' * (seeds > 1)} each, sampler "
            f"{search.sampler.name}, scheduler {search.scheduler.name}."
        )

    def _settings(self) -> dict[str, JsonObject]:
        """Return every setting that shaped the weights.

        What is null is the base's own; what the loss does not use is left out.
        """
        rooms = {
            name: to_dict(getattr(self.config, name)) for name in ("model", "objective", "train")
        }
        used = ("name", *OBJECTIVES[self.config.objective.loss].settings)
        rooms["objective"] = {k: v for k, v in rooms["objective"].items() if k in used}
        if self.config.model.adapter == "none":
            del rooms["model"]["lora"]
        if not any(rooms["train"]["augment"].values()):
            del rooms["train"]["augment"]
        if precision := self.course.machine.get("precision"):
            rooms["train"]["precision"] = precision  # what auto came to
        return {
            room: {k: v for k, v in values.items() if v is not None}
            for room, values in rooms.items()
        }

    def limits(self) -> Iterator[str]:
        yield "## Limits"
        yield ""
        for line in self._limits():
            yield f"- {line}"

    def _limits(self) -> Iterator[str]:
        yield (
            "What is measured here holds for queries and titles like those of these data, and for as many titles to "
            "choose from. Nothing else was tested."
        )
        if self.evidence is not None:
            yield from self._texts(self.evidence.data.texts)
        if self.base.languages:
            yield f"The base model's README names its languages: {', '.join(self.base.languages)}."
        if self.is_best:  # findings are about the winner
            models = None if self.evidence is None else self.evidence.models
            yield from (one.text for one in findings(self.record, models) if one.kind != "good")

    def _texts(self, texts: Sequence[str]) -> Iterator[str]:
        if long := lengths(texts, self.model):
            cut = (
                f"{100 * long.cut:.1f} % of the study's texts were"
                if long.cut
                else "none of the study's was"
            )
            yield (
                f"Texts are cut at {long.limit} tokens; {cut}. Half of them have at most {long.median} tokens, 95 % "
                f"at most {long.most}; the longest has {long.longest}, and nothing longer was tested."
            )
        found = ", ".join(f"{name} {100 * share:.0f} %" for name, share in scripts(texts).items())
        yield f"Letters of the study's texts: {found}. No other script was tested."

    def again(self) -> Iterator[str]:
        opened, machine = self.record.of_kind(events.Opened), self.course.machine
        environment: Json = opened[-1].environment if opened else {}
        packages = environment.get("packages") or {}
        named = [f"Python {environment.get('python') or 'of a version that is not recorded'}"]
        named += [f"{name} {packages[name]}" for name in SHOWN if packages.get(name)]
        yield "## Made with"
        yield ""
        yield f"{', '.join(named)}."
        if machine:
            threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
            yield f"Trained on {machine['device']}, {machine['cpu']}, {threads}, {machine['precision']}."
        if self.model.exists():
            yield f"sha256 of the weights: `{weights_digest(manifest(self.model))}`."
        yield from ("", "To train it again and compare every bit:", "", "```sh")
        yield f"embsearch reproduce {self.study} trial={self.course.number}"
        yield "```"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _files(report: Json) -> Iterator[str]:
    """Yield what the files of one set of data hold."""
    if not report.get("files"):
        return
    files = [f"{file['file']} ({file['rows']:,} rows)" for file in report["files"]]
    how = "given by the data" if report["split"] == "given" else f"by {report['split']}"
    yield f"Files: {', '.join(files)}; read as {report['format']}."
    counts = {name: report.get(name, 0) for name in ("triplets", "pairs")}
    trained = " and ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    yield f"Splits: {how}; training rows: {trained}."
    counted = ("queries", "rows", "relevant", "classes")
    heads = [head for head in counted if head in report["splits"]["train"]]
    yield from ("", f"| split | {' | '.join(heads)} |", f"|{'---|' * (len(heads) + 1)}")
    for name, part in report["splits"].items():
        yield f"| {name} | {' | '.join(f'{part[head]:,}' for head in heads)} |"
