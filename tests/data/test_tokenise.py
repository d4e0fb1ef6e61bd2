"""Texts to token ids, and what of it stays in the tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from embsearch.data.tokenise import tokenise

TEXTS = ["red shoe", "crimson shoe for kids", "鞋"]


@pytest.mark.parametrize("given", ["as it comes", "with a limit and padding of its own"])
def test_tokenising_leaves_the_tokenizer_as_it_was(tiny_bert, given):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    if given != "as it comes":
        tokenizer.backend_tokenizer.enable_truncation(128)
        tokenizer.backend_tokenizer.enable_padding(length=128)
    before = tokenizer.backend_tokenizer.to_str()
    first = tokenise(TEXTS, tokenizer, 4)
    assert (
        tokenizer.backend_tokenizer.to_str() == before
    )  # it is saved with the model, whose digest is its name
    again = tokenise(TEXTS, tokenizer, 4)
    assert np.array_equal(first.ids, again.ids)
    assert first.lengths.tolist() == [4, 4, 3]
