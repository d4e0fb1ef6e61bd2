"""What the table at the end of a study points out."""

from __future__ import annotations

from embsearch.report.result import warnings
from embsearch.tasks.catalogue import task_named

RETRIEVAL = task_named("retrieval")


def row(label, auc, **metrics):
    return {
        "label": label,
        "trial": None,
        "auc": {"value": auc, "low": auc, "high": auc},
        "test": metrics,
    }


def test_a_ranking_that_got_worse_while_auc_rose_is_named():
    rows = [row("untuned encoder", 0.84, ndcg_10=0.9, pool_recall_10=0.986), row("default configuration", 0.9),
            row("best trial", 0.92, ndcg_10=0.895, pool_recall_10=0.857)]  # fmt: skip
    assert warnings(rows, RETRIEVAL) == [
        "AUC rose, but against the untuned encoder these fell: recall@10 over all titles 0.9860 -> 0.8570. See the "
        "guide loss-falls-metric-does-not"
    ]


def test_a_gain_all_over_needs_no_word_and_no_gain_is_said():
    better = [row("untuned encoder", 0.84, ndcg_10=0.8), row("best trial", 0.92, ndcg_10=0.9)]
    assert warnings(better, RETRIEVAL) == []
    assert warnings([better[0], row("best trial", 0.83, ndcg_10=0.9)], RETRIEVAL) == [
        "AUC did not rise: the untuned encoder is as good"
    ]
    assert warnings(better[:1], RETRIEVAL) == []
