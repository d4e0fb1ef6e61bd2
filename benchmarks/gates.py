"""The error rates of the gates of promotion: two models whose AUC is known to differ by d, many promotions each.

    python benchmarks/gates.py                    # about ten minutes; writes benchmarks/results/gates.json

Rows are drawn anew for every promotion: queries with their own level, relevant titles that stand higher by what gives
the wanted AUC, noise that both models share in part, as two encoders tuned from one base do. At d = 0 the champion
and the candidate are equally good, so every promotion is an error. The smallest visible gain is what the gate itself
states; at twice that the candidate should nearly always pass, all gates of quality together.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm

from embsearch.config.schema import PromoteConfig
from embsearch.data.dataset import JudgedRows
from embsearch.registry.gates import Gate, Rival, gain_gate, quality_gates
from embsearch.tasks.catalogue import task_named

HERE = Path(__file__).parent
RETRIEVAL = task_named("retrieval")
RESULTS = HERE / "results" / "gates.json"
LEVEL, SHARED = 0.5, 0.7  # deviation of a query's level; correlation of the two models' noise
RELEVANT, IRRELEVANT, SEGMENTS = 2, 6, 4  # rows a query; segments


class Draw(NamedTuple):
    rows: JudgedRows
    candidate: np.ndarray
    champion: np.ndarray


def draw(seed: int, queries: int, auc: float, d: float) -> Draw:
    """Draw test rows and two models' scores of them: the champion's AUC is ``auc``, the candidate's ``auc + d``."""
    random = np.random.default_rng(seed)
    shown = RELEVANT + IRRELEVANT
    query = np.repeat(np.arange(queries), shown).astype(np.int32)
    relevant = np.tile(np.arange(shown) < RELEVANT, queries)
    level = np.repeat(random.normal(0, LEVEL, queries), shown)
    shared, own = random.normal(size=len(query)), random.normal(size=(2, len(query)))
    noise = np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * own
    spread = np.sqrt(
        2 * (1 + LEVEL**2)
    )  # of the difference of two rows' scores, from different queries
    candidate, champion = (
        (level + relevant * norm.ppf(wanted) * spread + part).astype(np.float32)
        for wanted, part in zip((auc + d, auc), noise, strict=True)
    )
    ids = np.arange(len(query), dtype=np.int32)
    names = tuple(f"segment {i}" for i in range(SEGMENTS))
    rows = JudgedRows(
        query,
        query,
        ids,
        relevant.astype(np.float32),
        relevant,
        (query % SEGMENTS).astype(np.int32),
        names,
    )
    return Draw(rows, candidate, champion)


def judged(one: Draw, asked: PromoteConfig) -> list[Gate]:
    """Ask the gates of quality, with the champion alone as the rival."""
    rivals = [Rival("champion", one.champion, champion=True)]
    return quality_gates(RETRIEVAL, one.rows, one.candidate, rivals, asked)


def promoted(
    promotions: int, queries: int, auc: float, d: float, asked: PromoteConfig
) -> dict[str, Any]:
    """Count the promotions that passed, and the gates that refused the others."""
    refused: dict[str, int] = {}
    passed = 0
    for seed in range(promotions):
        no = {gate.name for gate in judged(draw(seed, queries, auc, d), asked) if not gate.passed}
        passed += not no
        for name in no:
            refused[name] = refused.get(name, 0) + 1
    return {"d": d, "promotions": promotions, "promoted": passed, "refused by": refused}


def visible(queries: int, auc: float, asked: PromoteConfig, times: int = 50) -> float:
    """Return the median of the smallest visible gain that the gate states."""
    stated = []
    for seed in range(times):
        one = draw(seed, queries, auc, 0.0)
        stated.append(
            gain_gate(RETRIEVAL, one.rows, one.candidate, Rival("", one.champion), asked).facts[
                "smallest_visible"
            ]
        )
    return statistics.median(stated)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--promotions", type=int, default=400)
    parser.add_argument("--queries", type=int, nargs="+", default=[60, 200])
    parser.add_argument("--auc", type=float, default=0.85)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    asked, found = PromoteConfig(), []
    for queries in args.queries:
        seen = visible(queries, args.auc, asked)
        for d in (0.0, seen, 2 * seen):
            one = promoted(args.promotions, queries, args.auc, d, asked) | {
                "queries": queries,
                "visible": seen,
            }
            found.append(one)
            share = one["promoted"] / args.promotions
            print(f"{queries} queries, smallest visible gain {seen:.4f}: d = {d:.4f} promoted {share:.1%}, "
                  f"refused by {one['refused by']}", flush=True)  # fmt: skip
    made = {
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "draws": asked.draws,
        "auc": args.auc,
    }
    args.out.write_text(json.dumps({"made_with": made, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
