"""The short table at the end of a study: what won and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

RANKINGS = {
    "ndcg_10": "nDCG@10", "pool_recall_1": "recall@1 over all titles", "pool_recall_10": "recall@10 over all titles",
}  # fmt: skip
FELL = 0.01  # a smaller fall is within the noise of a few hundred test queries


def result_table(rows: Sequence[Mapping[str, Any]], objective: str) -> Table:
    """Rows as ``study.Result.table`` holds them. recall@k is against the whole title pool where measured."""
    split = rows[0]["split"] if rows else "test"
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    heads = (f"valid\n{objective}", f"{split} AUC\n(95 %)", "nDCG\n@10", "recall\n@1", "recall\n@10")
    table.add_column("")
    for head in heads:  # 77 columns in all
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        label = row["label"] if row["trial"] is None else f"{row['label']} ({row['trial']})"
        auc, metrics = row["auc"], row["test"]
        table.add_row(
            label,
            number(row["validation"]),
            f"{auc['value']:.4f} ({auc['low']:.4f}-{auc['high']:.4f})",
            *(number(value) for value in ranks(metrics)),
        )
    return table


def ranks(metrics: Mapping[str, float]) -> tuple[float | None, float | None, float | None]:
    """nDCG@10, recall@1 and recall@10; recall is against the whole title pool where that was measured."""
    recall = (metrics.get(f"pool_recall_{k}", metrics.get(f"recall_{k}")) for k in (1, 10))
    return metrics.get("ndcg_10"), *recall  # type: ignore[return-value]


def show(result: Any, objective: str, console: Console | None = None) -> None:
    """Print what a study found."""
    console = console or Console()
    counts = ", ".join(f"{n} {state}" for state, n in result.counts.items() if n)
    console.print(f"study {result.name}: {counts}; ended by {result.why}", highlight=False, soft_wrap=True)
    if result.table:
        console.print(result_table(result.table, objective))
        for one in result.confirmed:
            console.print(confirmed_line(one, objective), highlight=False, soft_wrap=True)
        for line in warnings(result.table):
            console.print(f"note:  {line}", highlight=False, soft_wrap=True)


def confirmed_line(one: Mapping[str, Any], objective: str) -> str:
    """How much of a trial's value was luck, by the fresh seeds that its configuration was trained with again."""
    mean = fmean(one["values"])
    each = ", ".join(f"{value:.4f}" for value in one["values"])
    return (
        f"again: trial {one['trial']}, {objective} {one['value']:.4f} in the search, {mean:.4f} with "
        f"{len(one['values'])} fresh seeds ({each}): {luck(one['value'] - mean)}"
        + (f"; {one['failed']} more failed" if one.get("failed") else "")
    )


def luck(bias: float) -> str:
    """What the difference between a value in the search and the mean of fresh seeds means."""
    return f"{bias:.4f} of it was luck" if bias > 0 else "it was not luck"


def warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the best trial ranks worse than the untuned encoder although its AUC is higher, a line each."""
    by_label = {row["label"]: row for row in rows}
    if not {"untuned encoder", "best trial"} <= by_label.keys():
        return []
    before, after = by_label["untuned encoder"], by_label["best trial"]
    if after["auc"]["value"] <= before["auc"]["value"]:
        return ["AUC did not rise: the untuned encoder is as good"]
    fell = [
        f"{words} {before['test'][name]:.4f} -> {after['test'][name]:.4f}"
        for name, words in RANKINGS.items()
        if before["test"].get(name, 0) - after["test"].get(name, 0) > FELL
    ]
    if not fell:
        return []
    return [f"AUC rose, but against the untuned encoder these fell: {'; '.join(fell)}. See the guide "
            "loss-falls-metric-does-not"]  # fmt: skip


def metrics_table(label: str, split: str, found: Mapping[str, Any]) -> None:
    """Print every metric of one model, and its AUC by segment."""
    console = Console()
    table = Table(title=f"{label}, {split} rows", title_justify="left", box=None, show_header=False)
    auc = found["auc"]
    for name, value in found["metrics"].items():
        more = f"95 % interval {auc['low']:.4f} to {auc['high']:.4f}" if name == "auc" else ""
        table.add_row(name, f"{value:.4f}", more)
    for name, scores in sorted(found["segments"].items()):
        table.add_row(f"auc, {name}", number(scores.get("auc")), f"{scores['rows']:.0f} rows")
    console.print(table)


def number(value: float | None) -> str:
    """Four places; nothing for None."""
    return "" if value is None else f"{value:.4f}"
