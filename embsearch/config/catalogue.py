"""The objectives that a config may name: what each learns from, what shapes it, where its class is;
and the costs of a model.

A new objective is a line here and a file in embsearch/objectives. The table lies in this room
because ``objective.name`` takes its choices from it, and imports point down. No torch here, so
that the coordinator, the report and ``--help`` can ask too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Needs = Literal["negatives", "choices", "teacher", "scores", "score orders"]
"""``negatives``: rows with a worse title of their own. ``choices``: more than one title to
choose among, be it a given negative or another row's positive. ``teacher``: a teacher's scores of
a row's titles. ``scores``: a score of every row;
``score orders``: rows of different scores in a batch."""


class Cost(NamedTuple):
    """A cost of a model that ``evaluate.costs`` may name."""

    words: str  # what it is, with its unit
    head: str  # of a column
    changed_by: tuple[str, ...]  # settings; where they are the same, so is the cost


_SHAPE = ("model.path", "model.revision", "model.projection")
COSTS = {
    "latency": Cost(
        "milliseconds to encode a text",
        "ms a text",
        (*_SHAPE, "model.max_length", "model.prompts.query", "model.prompts.document"),
    ),
    "size": Cost("megabytes of the saved model", "MB", _SHAPE),
    "dimension": Cost("numbers in a vector", "numbers", _SHAPE),
}
TOGETHER = "evaluate.objectives"  # a metric and costs, as evaluate.objective and .costs

LOSS = "objective.name"  # the config path of a loss; of a set, below the set's
OWN_FORMATS = (
    "scored",
    "classes",
)  # that data.format=auto becomes: these rows have a task of their own


class Entry(NamedTuple):
    """One objective."""

    needs: Needs
    settings: tuple[str, ...]  # fields of ObjectiveConfig, in the order its constructor takes them
    place: str  # module:class
    lists: int = 0  # rows of a query that lie side by side in a batch; 0: as they come


OBJECTIVES = {
    "triplet": Entry("negatives", ("margin",), "embsearch.objectives.triplet:Triplet"),
    "contrastive": Entry("negatives", ("margin",), "embsearch.objectives.contrastive:Contrastive"),
    "infonce": Entry(
        "choices", ("temperature", "symmetric"), "embsearch.objectives.infonce:InfoNCE"
    ),
    "bce": Entry("negatives", ("temperature",), "embsearch.objectives.bce:BinaryCrossEntropy"),
    "supcon": Entry("choices", ("temperature",), "embsearch.objectives.supcon:SupCon"),
    "listwise": Entry(
        "choices", ("temperature",), "embsearch.objectives.listwise:Listwise", lists=2
    ),
    "margin_mse": Entry("teacher", ("temperature",), "embsearch.objectives.margin_mse:MarginMSE"),
    "kl": Entry("teacher", ("temperature",), "embsearch.objectives.kl:KL", lists=8),
    "cosent": Entry("score orders", ("temperature",), "embsearch.objectives.cosent:CoSENT"),
    "angle": Entry("score orders", ("temperature",), "embsearch.objectives.angle:AnglE"),
    "cosine_mse": Entry("scores", (), "embsearch.objectives.cosine_mse:CosineMSE"),
}
