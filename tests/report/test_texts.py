"""What texts a model has seen."""

from __future__ import annotations

import json
import shutil

from embsearch.report.texts import lengths, scripts


def test_lengths_are_in_the_models_own_tokens(tiny_bert, tmp_path):
    texts = ["red shoe"] * 9 + [
        "red shoe for kids new 2024 red shoe"
    ]  # with [CLS] and [SEP] 4 and 10 tokens
    found = lengths(texts, tiny_bert)
    assert (found.median, found.longest, found.limit, found.cut) == (4, 10, 64, 0)
    short = tmp_path / "short"
    shutil.copytree(tiny_bert, short)
    config = json.loads((short / "tokenizer_config.json").read_text())
    (short / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 6}))
    assert lengths(texts, short).cut == 0.1


def test_a_model_without_such_a_tokenizer_has_no_lengths(tmp_path):
    assert lengths(["a"], tmp_path) is None


def test_scripts_are_shares_of_letters_and_rare_ones_are_left_out():
    assert scripts(["shoe 42", "红鞋", "обувь"]) == {
        "Cyrillic": 5 / 11,
        "Latin": 4 / 11,
        "CJK": 2 / 11,
    }
    assert scripts(["a" * 1000, "я"]) == {"Latin": 1000 / 1001}
    assert scripts(["42"]) == {}
