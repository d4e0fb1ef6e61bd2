"""The number of validation rows that the evaluations of a trial read: few where it begins, all
where it ends.

The first rungs only tell the good from the bad. Chosen once a study, by what the untuned encoder
says of the rows, so that every trial reads the same ones. The error is that of one AUC; the
difference of two trials has a smaller one, because what is hard about a query is hard for both.
Shapes: T texts, E dimensions.
"""

from __future__ import annotations

import math

from embsearch.config.schema import EvaluateConfig
from embsearch.data.dataset import Ids, JudgedRows, sample
from embsearch.evaluate.auc import Vectors
from embsearch.evaluate.bootstrap import auc_error
from embsearch.evaluate.score import similarity
from embsearch.values import Reading

FEWEST = 30  # queries: of fewer a bootstrap says too little (bootstrap.py)


def readings(
    rows: JudgedRows, ids_T: Ids, vectors_TE: Vectors, config: EvaluateConfig, seed: int
) -> list[Reading]:
    """Return what each evaluation of ``config.at`` reads: enough queries for a standard error of
    ``early_error``, half of that at every further one, and all at the last. Empty without
    ``early_error``, or if AUC is not maximised.
    """
    if (
        not config.early_error
        or config.metric != "auc"
        or rows.relevant.all()
        or not rows.relevant.any()
    ):
        return []

    def reading(queries: int) -> Reading:
        part = sample(rows, queries)
        scores = similarity(part, ids_T, vectors_TE)
        return Reading(
            queries, len(part), auc_error(scores, part.relevant, part.query, config.draws, seed)
        )

    *early, every = reckoned(reading(int(rows.query.max()) + 1), config)
    found = []
    for number, guess in enumerate(early):
        one = reading(guess.queries)
        while one.error > config.early_error / 2**number and one.queries < every.queries:
            one = reading(min(every.queries, math.ceil(1.05 * one.queries)))
        found.append(one)
    return [*found, every]


def reckoned(every: Reading, config: EvaluateConfig) -> list[Reading]:
    """Return the same from the error on all rows alone: it falls with the root of the number of
    queries, about.
    """
    found = []
    for number in range(len(config.at) - 1):
        share = min(1.0, (every.error / config.early_error * 2**number) ** 2)
        queries = min(every.queries, max(FEWEST * 2**number, math.ceil(share * every.queries)))
        share = queries / every.queries
        found.append(Reading(queries, round(share * every.rows), every.error / math.sqrt(share)))
    return [*found, every]
