"""Average precision against scikit-learn, the best F1 against every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from embsearch.evaluate.threshold import average_precision, best_f1


@pytest.mark.parametrize("digits", [1, 8])  # with ties and without
@pytest.mark.parametrize("seed", range(5))
def test_both_are_what_scikit_learn_says(seed, digits):
    random = np.random.default_rng(seed)
    relevant = random.random(60) < 0.3
    scores = np.round(random.normal(size=60) + relevant, digits)
    assert average_precision(scores, relevant) == pytest.approx(
        average_precision_score(relevant, scores)
    )
    every = [f1_score(relevant, scores >= cut) for cut in np.unique(scores)]
    assert best_f1(scores, relevant) == pytest.approx(max(every))


def test_of_rows_that_are_all_alike_or_all_relevant():
    assert average_precision([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]) == 0.25
    assert best_f1([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]) == pytest.approx(0.4)
    assert average_precision([0.1, 0.2], [1, 1]) == best_f1([0.1, 0.2], [1, 1]) == 1
    for metric in (average_precision, best_f1):
        with pytest.raises(ValueError, match="need a relevant row"):
            metric([0.1, 0.2], [0, 0])
