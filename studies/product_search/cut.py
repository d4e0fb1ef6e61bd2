"""How data/judgements.csv was cut from the full set: python studies/product_search/cut.py FULL.csv

Keeps every validation and test query, and of the training queries, whole, as many as fit into
3 MB in the order of a salted sha256 of their ids. Texts, grades and splits are unchanged.
"""

import hashlib
import sys
from pathlib import Path

import pandas as pd

LIMIT = 2_950_000  # bytes
COLUMNS = ["query_id", "query", "product_id", "title", "grade", "split", "category"]


def main(full: str) -> None:
    rows = pd.read_csv(full, dtype=str, keep_default_na=False)[COLUMNS]
    size = rows.astype(str).map(lambda s: len(s.encode()) + 1).sum(axis=1)
    by_query = size[rows.split == "train"].groupby(rows.query_id).sum()
    order = sorted(
        by_query.index, key=lambda q: hashlib.sha256(f"product_search {q}".encode()).hexdigest()
    )
    left = LIMIT - size[rows.split != "train"].sum()
    kept = set()
    for query in order:
        left -= by_query[query]
        if left < 0:
            break
        kept.add(query)
    cut = rows[(rows.split != "train") | rows.query_id.isin(kept)]
    cut.to_csv(Path(__file__).parent / "data" / "judgements.csv", index=False, lineterminator="\n")
    print(cut.groupby("split").agg(queries=("query_id", "nunique"), rows=("title", "size")))


if __name__ == "__main__":
    main(sys.argv[1])
