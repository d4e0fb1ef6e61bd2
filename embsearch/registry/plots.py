"""Pictures of a promotion, as PNG: how much was gained where, and how the two models score the same
rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from embsearch.codec import JsonObject
from embsearch.data.dataset import JudgedRows
from embsearch.registry.gates import Gate
from embsearch.tasks.base import Answers

MOST = 3000  # rows that are drawn
RED, BLUE, GREY = "#b4442f", "#2f6db4", "#888888"
SIGN = {"condition": {"test": "datum.high < 0", "value": RED}, "value": BLUE}  # a loss is red


def gains_plot(gates: Sequence[Gate], metric: str) -> bytes:
    """Draw every gain with its interval: the primary ``metric``, secondary ones, segments."""
    rows = list(_gains(gates, metric))
    y = {"field": "what", "type": "nominal", "sort": None, "title": None}
    return _png(
        {
            "data": {"values": rows},
            "width": 460,
            "height": {"step": 22},
            "title": "What the candidate gains on the test rows, with intervals",
            "layer": [
                {"mark": {"type": "rule", "color": GREY}, "encoding": {"x": {"datum": 0}}},
                {
                    "mark": "rule",
                    "encoding": {
                        "x": {"field": "low", "type": "quantitative", "title": "gain"},
                        "x2": {"field": "high"},
                        "y": y,
                        "color": SIGN,
                    },
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 60},
                    "encoding": {
                        "x": {"field": "value", "type": "quantitative"},
                        "y": y,
                        "color": SIGN,
                    },
                },
            ],
        }
    )


def pairs_plot(rows: JudgedRows, mine: Answers, theirs: Answers, rival: str) -> bytes:
    """Draw each row's similarity by both models: relevant rows should rise, the others fall."""
    take = np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(int)
    values = [
        {
            "before": float(theirs[i]),
            "now": float(mine[i]),
            "row": "relevant" if rows.relevant[i] else "irrelevant",
        }
        for i in take
    ]
    colour = {"domain": ["relevant", "irrelevant"], "range": [BLUE, RED]}
    return _png(
        {
            "data": {"values": values},
            "width": 420,
            "height": 420,
            "title": f"Similarity of {len(take)} test rows",
            "mark": {"type": "point", "filled": True, "size": 9, "opacity": 0.5},
            "encoding": {
                "x": {
                    "field": "before",
                    "type": "quantitative",
                    "title": rival,
                    "scale": {"zero": False},
                },
                "y": {
                    "field": "now",
                    "type": "quantitative",
                    "title": "candidate",
                    "scale": {"zero": False},
                },
                "color": {"field": "row", "type": "nominal", "title": None, "scale": colour},
            },
        }
    )


def _gains(gates: Sequence[Gate], metric: str) -> Iterator[JsonObject]:
    for gate in gates:
        if gate.name == "gain":
            yield {"what": f"{metric}, over the {gate.facts['against']}", **gate.facts["gain"]}
        elif gate.name in ("ranking", "segments"):
            for label, change in gate.facts.items():
                yield {
                    "what": label if gate.name == "ranking" else f"{metric} in {label}",
                    **change,
                }


def _png(spec: JsonObject) -> bytes:
    import vl_convert

    return bytes(vl_convert.vegalite_to_png({**spec, "background": "white"}, scale=1.5))
