from __future__ import annotations

import pytest

from embsearch.data.columns import choose_columns, renamed
from embsearch.data.read import read
from embsearch.data.source_files import Source
from embsearch.data.validate import Checked, validate


@pytest.fixture
def check(write):
    def run(content: str, on_bad_row: str = "error") -> Checked:
        table = read(Source(write("x.csv", content)))
        columns = choose_columns(table, "auto", {})
        return validate(renamed(table, columns), columns.format, table.faults, on_bad_row)

    return run


def rows(checked: Checked, *names: str) -> list[list]:
    return checked.frame[list(names)].to_numpy().tolist()


def test_texts_lose_the_blanks_at_their_ends_and_nothing_else(check):
    checked = check("anchor,positive,negative\n　Red  Shoe ,ＡＢＣ,NA\n")
    assert rows(checked, "query", "positive", "negative", "key") == [
        ["Red  Shoe", "ＡＢＣ", "NA", "redshoe"]
    ]


def test_a_click_beats_its_absence_and_the_contradiction_is_counted(check):
    checked = check("query,title,clicked,weight\nq,a,0,5\nQ,a,true,2\nq,a,1,3\nq,b,false,1\n")
    assert rows(checked, "title", "grade", "weight") == [["a", 1.0, 5.0], ["b", 0.0, 1.0]]
    assert checked.contradictions == (
        "x.csv, row 3: 'a' has 1 here and 0 in x.csv, row 2; the higher holds",
    )


def test_an_empty_optional_value_is_no_fault(check):
    checked = check(
        "anchor,positive,negative,weight,pos_grade,neg_grade\nq,a,b,2,,\nq,c,　,,,\nr,a,,3,2,1\n"
    )
    assert rows(checked, "positive", "negative", "weight") == [
        ["a", "b", 2.0],
        ["c", "", 1.0],
        ["a", "", 3.0],
    ]


def test_one_fault_of_a_row_of_many_titles_is_told_once(check):
    checked = check("anchor,positive,neg1,neg2\n,a,b,c\nr,a,b,a\n", on_bad_row="drop")
    assert [(f.row, f.kind) for f in checked.dropped] == [
        (2, "empty text"),
        (3, "positive equals negative"),
    ]
    assert rows(checked, "query", "negative") == [["r", "b"]]


def test_duplicates_are_counted_and_kept_once(check):
    checked = check("anchor,positive,negative\nq,a,b\nQ ,a,b\nq,a,c\n")
    assert rows(checked, "positive", "negative") == [["a", "b"], ["a", "c"]]
    assert checked.duplicates == 1


def test_a_middle_grade_may_be_positive_and_negative(check):
    checked = check("anchor,positive,negative,pos_grade,neg_grade\nq,a,b,2,1\nq,b,c,1,0\n")
    assert len(checked.frame) == 2
    assert checked.contradictions == ("x.csv, row 2: negative 'b' is a positive in x.csv, row 3",)


def test_two_query_ids_of_one_text_take_the_higher_grade(check):
    checked = check("query_id,query,title,grade\n1,q,a,0\n2,Q,a,1\n2,q,b,0\n1,q,b,0\n")
    assert rows(checked, "title", "grade") == [["a", 1.0], ["b", 0.0]]
    assert (len(checked.contradictions), checked.duplicates) == (1, 1)


def test_dropped_rows_keep_their_place_reasons_and_values(check):
    checked = check("query,title,grade\nq,a,x\n,b,\nq,c,1\nq\n", on_bad_row="drop")
    assert rows(checked, "title", "grade") == [["c", 1.0]]
    assert [(f.row, f.kind, f.what) for f in checked.dropped] == [
        (5, "ragged row", "1 cells where the header has 3, starting 'q'"),
        (2, "bad grade", "grade 'x' is not a finite number"),
        (
            3,
            "empty text",
            "query '' is empty or blank; expected a text; grade '' is not a finite number",
        ),
    ]
    assert checked.dropped[1].values == {"query": "q", "title": "a", "grade": "x"}


def test_of_two_different_grades_neither_is_believed(check):
    checked = check("query,title,grade\nq,a,1\nq,b,0\nq,a,0\n", on_bad_row="drop")
    assert rows(checked, "title") == [["b"]]
    assert [f.row for f in checked.dropped] == [2, 4]
