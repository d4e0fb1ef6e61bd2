"""How many trainings confirm the best of a search, and what they say."""

from __future__ import annotations

import pytest

from embsearch.config.schema import ConfirmConfig
from embsearch.hpo.confirm import Confirmed, affordable, choose, too_small


@pytest.mark.parametrize(
    ("runs", "top", "seeds"),
    [(0, 0, 0), (1, 0, 0), (2, 1, 2), (3, 1, 3), (4, 2, 2), (6, 3, 2), (8, 3, 2), (99, 3, 3)],
)
def test_half_the_search_pays_for_so_many(runs, top, seeds):
    assert affordable(ConfirmConfig(), spent=2 * runs * 100, texts=100) == (top, seeds)


def test_without_a_share_all_are_trained_and_with_top_k_0_none():
    assert affordable(ConfirmConfig(share=None), spent=0, texts=100) == (3, 3)
    assert affordable(ConfirmConfig(top_k=0), spent=10_000, texts=100) == (0, 0)
    assert affordable(ConfirmConfig(top_k=2, seeds=1, share=None), spent=0, texts=100) == (2, 1)


def test_the_nearest_number_of_trainings_counts_and_too_few_are_said():
    assert affordable(ConfirmConfig(), spent=380, texts=100) == (1, 2)
    assert affordable(ConfirmConfig(), spent=290, texts=100) == (0, 0)
    assert too_small(ConfirmConfig()) == "the search is too small for it (confirm.share=0.5)"
    assert too_small(ConfirmConfig(top_k=0)) == "confirm.top_k=0, confirm.seeds=3"


def test_the_choice_is_by_the_mean_and_luck_is_what_the_search_promised_too_much():
    lucky, steady = Confirmed(3, 0.97, (0.93, 0.95)), Confirmed(5, 0.96, (0.955, 0.957))
    assert choose([lucky, steady]) == 5
    assert lucky.luck == pytest.approx(0.03)
    assert choose([]) is None


def test_a_configuration_that_failed_with_a_fresh_seed_is_chosen_only_where_all_did():
    fragile, steady = Confirmed(3, 0.97, (0.97,), failed=2), Confirmed(5, 0.96, (0.95, 0.955))
    assert choose([fragile, steady]) == 5
    assert choose([fragile]) == 3
    assert fragile.words.endswith("(0.9700); 2 more failed")
