"""Bodies to rows: every form, and every fault with its row and what was expected."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embsearch.serve.requests import BadRequest, Embeddings, Limits, Rows, embeddings, invocation

LIMITS = Limits(rows=3, chars=10)
TEXTS, PAIRS = Rows(("a", "b")), Rows(("a", "b"), ("x", "y"))
RECORDS = [{"query": "a", "title": "x"}, {"title": "y", "query": "b"}]


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        ({"inputs": ["a", "b"]}, TEXTS),
        ({"inputs": "a"}, Rows(("a",))),
        ({"instances": ["a", "b"], "params": None}, TEXTS),
        ({"inputs": {"text": ["a", "b"]}}, TEXTS),
        ({"dataframe_records": [{"text": "a"}, {"text": "b"}]}, TEXTS),
        (
            {"dataframe_split": {"columns": ["text"], "index": [0, 1], "data": [["a"], ["b"]]}},
            TEXTS,
        ),
        ({"inputs": RECORDS}, PAIRS),
        ({"inputs": {"title": ["x", "y"], "query": ["a", "b"]}}, PAIRS),
        (
            {"dataframe_split": {"columns": ["title", "query"], "data": [["x", "a"], ["y", "b"]]}},
            PAIRS,
        ),
    ],
)
def test_every_form_of_mlflow_is_read(body, rows):
    assert invocation(json.dumps(body).encode(), LIMITS) == rows


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"inputs": [', "not JSON (Expecting value: line 1 column 13"),
        (b"\xff\xfe\xfd", "not JSON (UnicodeDecodeError)"),
        (b"[" * 100_000, "more than 88 values; expected no more than 3 rows need"),
        (b"[1]", 'the body is [1]; expected an object, {"inputs": ["a text", ...]}'),
        (b'{"input": ["a"]}', '"input": no such field; expected one of inputs, instances'),
        (b'{"inputs": ["a"], "instances": ["a"]}', "got inputs, instances"),
        (b'{"inputs": ["a"], "params": {"k": 1}}', 'params: expected none, or {"input_type": "query"}, got {"k": 1}'),
        (b'{"inputs": []}', "inputs: no rows"),
        (b'{"inputs": ["a", "b", "c", "d"]}', "inputs: 4 rows; expected at most 3 in one request (serve.max_rows)"),
        (b'{"inputs": ["a", 7]}', 'inputs, row 2: expected a text or {"query": ..., "title": ...}, got 7'),
        (b'{"inputs": ["a", " "]}', "inputs, row 2: is empty; expected a text"),
        (b'{"inputs": ["a", "12345678901"]}', "inputs, row 2: 11 characters; expected at most 10 (serve.max_chars)"),
        (b'{"inputs": ["\\ud800"]}', "inputs, row 1: holds half of a surrogate pair"),
        (b'{"inputs": ["a", {"query": "a", "title": "b"}]}', "row 2: expected a text as in row 1, got a query and a"),
        (b'{"inputs": [{"query": "a", "title": null}]}', "inputs, row 1.title: expected a text, got null"),
        (b'{"inputs": {"query": ["a"], "title": ["b", "c"]}}', "columns of one length, got query 1, title 2"),
        (b'{"dataframe_split": {"columns": ["query", "title"], "data": [["a", "b"], ["c"]]}}', "row 2: expected 2"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place_and_what_was_expected(body, says):
    with pytest.raises(BadRequest) as caught:
        invocation(body, LIMITS)
    assert says in str(caught.value)
    assert caught.value.status == 400


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_whatever_is_sent_is_read_or_refused_with_words(value):
    for body in (
        {"inputs": value},
        {"dataframe_split": value},
        {"dataframe_records": value},
        value,
    ):
        try:
            found = invocation(json.dumps(body).encode(), LIMITS).texts
        except BadRequest as error:
            found = str(error).split("expected")[1:]
        assert found
        assert all(text.strip() for text in found)


def test_openais_body_is_read():
    body = b'{"input": "a", "model": "m", "encoding_format": "base64", "user": "u"}'
    assert embeddings(body, LIMITS) == Embeddings(("a",), "m", True)
    assert embeddings(b'{"input": ["a", "b"]}', LIMITS) == Embeddings(("a", "b"), None, False)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (b'{"model": "m"}', "input", "input: is missing"),
        (b'{"input": [[1, 2]]}', "input", "input, row 1: expected a text, got [1, 2]"),
        (b'{"input": "a", "dimensions": 8}', "dimensions", "one width"),
        (
            b'{"input": "a", "encoding_format": "hex"}',
            "encoding_format",
            'float or base64, got "hex"',
        ),
    ],
)
def test_openais_faults_name_the_parameter(body, param, says):
    with pytest.raises(BadRequest) as caught:
        embeddings(body, LIMITS)
    assert (caught.value.param, says in str(caught.value)) == (param, True)
