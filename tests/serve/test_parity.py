"""What refuses a graph: vectors that moved, a ranking that got worse, numbers that are none."""

from __future__ import annotations

import numpy as np
import pytest

from embsearch.config.schema import ExportConfig
from embsearch.serve.parity import Parity, Scored, on_texts
from embsearch.tasks.base import Metric

LIMITS = ExportConfig(max_auc_loss=0.002, min_cosine=0.99)


def parity(min_cosine=1.0, auc=0.9, auc_fp32=0.9):
    scored = None if auc is None else Scored(Metric("auc", "AUC"), auc, auc_fp32)
    return Parity(4, min_cosine, scored, 2.0, 1.0)


@pytest.mark.parametrize(
    "found",
    [
        parity(),
        parity(min_cosine=0.99),
        parity(auc=0.8985),
        parity(auc=0.95),
        parity(auc=None, auc_fp32=None),
    ],
)
def test_a_graph_within_the_limits_is_not_refused(found):
    assert found.refusals(LIMITS) == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (
            parity(min_cosine=0.9899),
            "cosine 0.9899 with its own in fp32, below export.min_cosine=0.99",
        ),
        (parity(min_cosine=float("nan")), "cosine nan"),
        (
            parity(auc=0.8979),
            "AUC 0.8979 where fp32 has 0.9000: loses more than export.max_auc_loss=0.002",
        ),
    ],
)
def test_a_graph_beyond_a_limit_is_refused_with_the_figure(found, says):
    (refusal,) = found.refusals(LIMITS)
    assert says in refusal


def test_the_least_similar_vector_counts():
    vectors = np.eye(3, dtype=np.float32)
    turned = vectors.copy()
    turned[1] = [0.6, 0.8, 0.0]
    found = on_texts(
        ["a", "b", "c"], lambda texts: vectors, lambda texts: turned, lambda texts: vectors
    )
    assert found.min_cosine == pytest.approx(0.8)
    assert found.speed > 0
