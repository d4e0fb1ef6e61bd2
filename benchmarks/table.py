"""The README's table of benchmarks, from results/*.json. bench.py and search.py write it after each measurement.

python benchmarks/table.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGIN, END = "<!-- benchmarks/table.py writes from here -->\n", "<!-- to here -->\n"


def main(readme: Path = HERE.parent / "README.md") -> None:
    known = {path.stem: json.loads(path.read_text()) for path in (HERE / "results").glob("*.json")}
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(before + BEGIN + table(known["bench"], known.get("search")) + END + after)


def table(bench: dict[str, Any], search: dict[str, Any] | None) -> str:
    made = bench["step"]["made_with"]
    head = f"against sentence-transformers {made['sentence-transformers']}"
    rows = "".join(f"| {what} | {value} |\n" for what, value in lines(bench, search))
    return f"| {made['cpus']} cores, MiniLM-L6, the same rows | {head} |\n|---|---|\n{rows}"


def lines(bench: dict[str, Any], search: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    step, ratio = bench["step"], bench["step"]["ratio"]
    names = [name for name in step["wall_ms"] if name.startswith("theirs, bf16")]
    whole, some = (
        min(ratio[f"{mine} / {name}"]["wall"] for name in names)
        for mine in ("ours, all active", "ours")
    )
    yield (
        "training step, 32 triplets, against its fastest setting (bf16)",
        f"{whole:.1f} times as fast",
    )
    yield "the same once some triplets are learnt, mean of 60 steps", f"{some:.1f} times as fast"
    default = ratio["ours, all active / theirs, fp32"]["wall"]
    yield "training step against its default (fp32)", f"{default:.1f} times as fast"
    evaluate = bench["evaluate"]["ratio"]
    bf16, fp32 = (evaluate[f"ours, bf16 / theirs, {how}"]["wall"] for how in ("bf16", "fp32"))
    yield (
        "evaluation against `encode` in bf16 / its default",
        f"{bf16:.1f} / {fp32:.1f} times as fast",
    )
    if search and search["to their best"]:
        what = f"search of {search['trials']} trials, until it has the best AUC that its search ends with"
        yield what, f"{search['to their best']:.1f} times as fast"
    memory = step["memory_mb"]
    least = min(size for name, size in memory.items() if name.startswith("theirs"))
    yield "peak memory of a worker", f"{memory['ours'] / least:.2f} of its smallest"


if __name__ == "__main__":
    main()
