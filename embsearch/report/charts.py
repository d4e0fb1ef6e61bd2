"""The study page's charts: Vega-Lite specifications over the tables of report/tables.py.

Pure: a record goes in, plain JSON comes out. Colours, fonts and widths are the page's (draw.js).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.distributions import CategoricalDistribution

from embsearch.codec import Json, JsonObject
from embsearch.config.catalogue import COSTS
from embsearch.history.final_table import BEST, GIVEN, UNTUNED
from embsearch.hpo.space import Dimension
from embsearch.report.front import OFF, ON
from embsearch.report.importance import Importance
from embsearch.report.record import Record
from embsearch.report.tables import SHOWN
from embsearch.tasks.base import Metric
from embsearch.tasks.catalogue import task_of

STATES = ("complete", "pruned", "failed", "running", "paused", "waiting")
PAIRS = 3  # of parameters whose interaction is drawn
LEAST = 1e-3  # loss: smaller ones are drawn here


@dataclass(frozen=True)
class Chart:
    """A figure of the page. ``words`` says what to look for; it is the figure's caption."""

    id: str
    title: str
    words: str
    spec: JsonObject
    narrow: bool = False  # stands beside others


def charts(
    record: Record, data: Mapping[str, Sequence[Json]], found: Sequence[Importance]
) -> dict[str, list[Chart]]:
    """Return the charts by section of the page; a section without data has none."""
    objective = f"validation {record.objective}"
    made = {
        "history": [_history(record, objective)],
        "curves": [_curves(objective, record), _losses()],
        "budget": [_budget_chart(data["budget"])],
        "costs": [_cost(name, objective) for name in record.config.evaluate.costs],
        "importance": [_importance(len(found))] if found else [],
        "slices": [
            _slice(i, d, name, objective)
            for i, (d, name) in enumerate(
                zip(record.space.dimensions, record.space.short_names(), strict=True)
            )
        ],
        "interactions": _interactions(record, found, objective),
        "seeds": [_seeds(objective, len({row["n"] for row in data["seeds"]}))],
        "segments": [
            _segments(
                len({row["segment"] for row in data["segments"]}),
                task_of(record.config).primary,
                list(record.tested),
            )
        ],
        "scores": [
            _scores(model, data["scores"]) for model in (UNTUNED, BEST) if data.get("scores")
        ],
        "map": [_map(UNTUNED), _map(BEST)],
    }
    needs = {"history": "trials", "map": "points", "slices": "trials", "interactions": "trials"}
    for chart in (chart for some in made.values() for chart in some):
        _name_only(chart.spec, {row["state"] for row in data["trials"]})
    return {
        section: some if data.get(needs.get(section, section)) else []
        for section, some in made.items()
    }


def _name_only(spec: object, states: set[str]) -> None:
    """Leave the states that no trial has out of the legends."""
    for value in (
        spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ()
    ):
        if isinstance(value, dict) and value.get("field") == "state":
            value["legend"] = {"values": [state for state in STATES if state in states]}
        _name_only(value, states)


# Colours are named ranges, which the page fills in for light and dark: states, models, kinds.
_STATE = {
    "field": "state",
    "type": "nominal",
    "title": None,
    "scale": {"domain": list(STATES), "range": "states"},
}
_SHAPES = ("circle", "triangle-down", "cross", "diamond", "square", "square")
_SHAPE = _STATE | {"scale": {"domain": list(STATES), "range": list(_SHAPES)}}
_SIZE = {
    "condition": {"test": "datum.won", "value": 170},
    "value": 50,
}  # the winner's mark is large
_TRIAL = {
    "field": "n",
    "type": "quantitative",
    "title": "trial",
    "axis": {"tickMinStep": 1, "format": "d"},
}


def _table(name: str) -> JsonObject:
    return {"data": {"name": name}}


def _y(field: str, title: str) -> JsonObject:
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"zero": False},
        "axis": {"tickCount": 6},
    }


def _kinds(first: str, second: str) -> JsonObject:
    return {
        "field": "kind",
        "type": "nominal",
        "title": None,
        "scale": {"domain": [first, second], "range": "kinds"},
    }


def _tips(titles: Mapping[str, str]) -> list[JsonObject]:
    return [{"field": field, "title": title} for field, title in titles.items()]


def _history(record: Record, objective: str) -> Chart:
    layers: list[JsonObject] = [
        {
            "mark": {"type": "point", "filled": True, "size": 60},
            "transform": [{"filter": "isValid(datum.best)"}],
            "encoding": {
                "x": _TRIAL,
                "y": _y("best", objective),
                "color": _STATE,
                "shape": _SHAPE,
                "tooltip": _tips(
                    {"n": "trial", "state": "state", "best": objective, "rung": "evaluations"}
                ),
            },
        },
        {
            "mark": {
                "type": "line",
                "interpolate": "step-after",
                "strokeWidth": 2,
                "tooltip": False,
            },
            "encoding": {"x": _TRIAL, "y": _y("so_far", objective)},
        },
    ]
    untuned = (record.baseline or {}).get(record.objective)
    words = "Each mark is a trial's best evaluation wherever it came, the line the best so far."
    if untuned is not None:
        rule = {
            "mark": {"type": "rule", "strokeDash": [4, 4], "aria": False},
            "encoding": {"y": {"datum": untuned}},
        }
        values = [c.best for c in record.courses.values() if c.best is not None]
        if values and untuned > 2 * min(values) - max(
            values
        ):  # not so far below that nothing else could be read
            layers.append(rule)
            words += f" Dashed: the untuned encoder, {untuned:.4f}."
        else:
            words += f" The untuned encoder is at {untuned:.4f}, below this chart."
    return Chart(
        "history", "The search", words, _table("trials") | {"layer": layers, "height": 260}
    )


def _curves(objective: str, record: Record) -> Chart:
    spec = _table("curves") | {"height": 280, **_traces("value", objective, points=True)}
    seen = len(record.courses)
    most = f" The {SHOWN} trials of {seen} that came furthest." if seen > SHOWN else ""
    return Chart(
        "curves",
        "Learning curves",
        f"One line a trial, the winner thick. A line ends where the scheduler "
        f"stopped the trial, or where its budget was spent.{most}",
        spec,
    )


def _losses() -> Chart:
    spec = _table("losses") | {"height": 220, **_traces("loss", "training loss", points=False)}
    spec["encoding"]["y"]["scale"] = {
        "type": "log",
        "domainMin": LEAST,
        "clamp": True,
        "nice": False,
    }
    spec["encoding"]["y"]["axis"] = {"tickCount": 4, "format": "~g", "labelOverlap": True}
    return Chart(
        "losses",
        "Training loss",
        "Means over neighbouring steps, on a logarithmic scale. Losses of "
        "different objectives or margins cannot be compared with each other; the validation metric can.",
        spec,
    )


def _traces(field: str, title: str, points: bool) -> JsonObject:
    over = {"param": "over", "empty": False}
    bold = {
        "condition": [{**over, "value": 1.0}, {"test": "datum.won", "value": 1.0}],
        "value": 0.45,
    }
    wide = {"condition": [{**over, "value": 3}, {"test": "datum.won", "value": 3}], "value": 1.3}
    return {
        "mark": {"type": "line", "point": {"filled": True, "size": 25} if points else False},
        "params": [
            {"name": "over", "select": {"type": "point", "fields": ["n"], "on": "pointerover"}}
        ],
        "encoding": {
            "x": {
                "field": "texts",
                "type": "quantitative",
                "title": "texts seen",
                "axis": {"tickCount": 6},
            },
            "y": _y(field, title),
            "color": _STATE,
            "detail": {"field": "n"},
            "opacity": bold,
            "strokeWidth": wide,
            "tooltip": _tips({"n": "trial", "state": "state", "texts": "texts seen", field: title}),
        },
    }


def _budget_chart(rows: Sequence[Json]) -> Chart:
    most = max((row["texts"] for row in rows), default=0)
    y = {"field": "rung", "type": "ordinal", "title": None, "sort": None}
    x = {
        "field": "texts",
        "type": "quantitative",
        "title": "texts trained on, on the way to each evaluation",
        "scale": {"domain": [0, 1.15 * most], "nice": False},
        "axis": {"tickCount": 6},
    }
    tips = _tips({"rung": "evaluation", "trials": "trials that came there", "texts": "texts"})
    text = {
        "mark": {"type": "text", "align": "left", "dx": 4},
        "encoding": {"y": y, "x": x, "text": {"field": "label"}},
    }
    spec = _table("budget") | {
        "transform": [
            {
                "calculate": "datum.trials + (datum.trials == 1 ? ' trial' : ' trials')",
                "as": "label",
            }
        ],
        "layer": [{"mark": "bar", "encoding": {"y": y, "x": x, "tooltip": tips}}, text],
        "height": 30 * len(rows),
    }
    return Chart(
        "budget",
        "Where the budget went",
        "How many trials came to each evaluation; in brackets its share of the budget.",
        spec,
    )


def _cost(name: str, objective: str) -> Chart:
    words = COSTS[name].words
    x = {"field": name, "type": "quantitative", "title": words, "scale": {"zero": False}}
    encoding = {
        "x": x,
        "y": _y("best", objective),
        "color": _kinds(ON, OFF),
        "size": _SIZE,
        "tooltip": _tips({"n": "trial", "kind": "is of", "best": objective, name: words}),
    }
    spec = {
        "mark": {"type": "point", "filled": True},
        "encoding": encoding,
        "height": 240,
    }
    return Chart(
        f"cost-{name}",
        f"Value against {name}",
        "Good trials stand at the upper left; the winner's mark is large.",
        _table("costs") | spec,
        narrow=True,
    )


def _importance(rows: int) -> Chart:
    y = {"field": "name", "type": "nominal", "title": None, "sort": None}
    x = {
        "field": "value",
        "type": "quantitative",
        "title": "share of the variance explained",
        "scale": {"domain": [0, 1]},
        "axis": {"format": "%", "tickCount": 6},
    }
    tips = [
        {"field": "name", "title": "parameter"},
        *(
            {"field": f, "title": t, "type": "quantitative", "format": ".0%"}
            for f, t in (("value", "share"), ("low", "low"), ("high", "high"))
        ),
    ]
    spec = _table("importance") | {
        "layer": [
            {
                "mark": {"type": "bar", "opacity": 0.55},
                "encoding": {"y": y, "x": x, "tooltip": tips},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {
                    "y": y,
                    "x": x | {"field": "low"},
                    "x2": {"field": "high"},
                    "tooltip": tips,
                },
            },
        ],
        "height": 28 * rows,
    }
    return Chart("importance", "Which parameters mattered", "", spec)


def _x(place: int, dimension: Dimension, name: str) -> JsonObject:
    """Return a parameter as an axis, on its own scale."""
    field = f"p{place}"
    if dimension.ordered:
        return {
            "field": field,
            "type": "ordinal",
            "title": name,
            "sort": list(dimension.ordered),
            "axis": {"labelAngle": 0},
        }
    if isinstance(dimension.distribution, CategoricalDistribution):
        return {"field": field, "type": "nominal", "title": name, "axis": {"labelAngle": 0}}
    low, high = dimension.values
    log = bool(dimension.distribution.log)  # type: ignore[attr-defined]
    scale = {"type": "log", "domain": [low, high]} if log else {"domain": [low, high]}
    axis = {"format": "~e" if log and high < 0.1 else "~g", "tickCount": 4, "labelOverlap": True}
    return {
        "field": field,
        "type": "quantitative",
        "title": name,
        "scale": scale | {"nice": False},
        "axis": axis,
    }


def _slice(place: int, dimension: Dimension, name: str, objective: str) -> Chart:
    spec = _table("trials") | {
        "transform": [{"filter": f"isValid(datum.there) && isValid(datum.p{place})"}],
        "mark": {"type": "point", "filled": True},
        "encoding": {
            "x": _x(place, dimension, name),
            "y": _y("there", objective),
            "color": _STATE,
            "shape": _SHAPE,
            "size": _SIZE,
            "tooltip": _tips(
                {"n": "trial", "state": "state", f"p{place}": name, "there": objective}
            ),
        },
        "height": 180,
    }
    return Chart(f"slice-{place}", name, "", spec, narrow=True)


def _interactions(record: Record, found: Sequence[Importance], objective: str) -> list[Chart]:
    """Return charts of the most important parameters in pairs: where in the plane of two the good
    trials lie.
    """
    names = record.space.short_names()
    top = [names.index(one.name) for one in found[:3]]
    pairs = [(a, b) for i, a in enumerate(top) for b in top[i + 1 :] if _together(record, a, b)]
    return [
        Chart(
            f"pair-{a}-{b}",
            f"{names[a]} and {names[b]}",
            "",
            _table("trials")
            | {
                "transform": [
                    {
                        "filter": f"isValid(datum.there) && isValid(datum.p{a}) && "
                        f"isValid(datum.p{b})"
                    }
                ],
                "mark": {"type": "point", "filled": True},
                "encoding": {
                    "x": _x(a, record.space.dimensions[a], names[a]),
                    "y": _x(b, record.space.dimensions[b], names[b]),
                    "color": {
                        "field": "there",
                        "type": "quantitative",
                        "title": record.objective,
                        "scale": {"scheme": {"name": "viridis", "extent": [0.2, 1]}},
                    },
                    "size": _SIZE,
                    "tooltip": _tips(
                        {"n": "trial", f"p{a}": names[a], f"p{b}": names[b], "there": objective}
                    ),
                },
                "height": 220,
            },
            narrow=True,
        )
        for a, b in pairs[:PAIRS]
    ]


def _together(record: Record, a: int, b: int) -> bool:
    """Return whether a trial used both parameters."""
    both = record.space.dimensions[a], record.space.dimensions[b]
    return any(all(map(course.uses, both)) for course in record.courses.values())


def _seeds(objective: str, trials: int) -> Chart:
    spec = _table("seeds") | {
        "mark": {"type": "tick", "thickness": 3},
        "encoding": {
            "y": {"field": "n", "type": "ordinal", "title": "trial"},
            "x": _y("value", objective),
            "color": _STATE,
            "tooltip": _tips(
                {"n": "trial", "seed": "seed", "rung": "evaluation", "value": objective}
            ),
        },
        "height": 22 * trials,
    }
    return Chart(
        "seeds",
        "Seeds",
        "One tick a seed, at the last evaluation of the trial. Two trials whose ticks mix cannot be told apart.",
        spec,
    )


def _segments(segments: int, primary: Metric, models: Sequence[str]) -> Chart:
    domain = sorted(
        models, key=lambda label: label.startswith(GIVEN)
    )  # last: the colours of the others stay
    model = {"field": "model", "type": "nominal", "title": None, "scale": {"domain": domain}}
    x = _y(primary.name, primary.label)
    y = {"field": "segment", "type": "nominal", "title": None, "axis": {"labelLimit": 140}}
    spec = _table("segments") | {
        "layer": [
            {
                "mark": {"type": "line", "opacity": 0.5},
                "encoding": {"y": y, "x": x, "detail": {"field": "segment"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {
                    "y": y,
                    "x": x,
                    "color": model | {"scale": {"domain": domain, "range": "models"}},
                    "shape": model,
                    "tooltip": _tips(
                        {
                            "segment": "segment",
                            "model": "model",
                            primary.name: primary.label,
                            "rows": "rows",
                        }
                    ),
                },
            },
        ],
        "height": 24 * segments,
    }
    return Chart(
        "segments",
        "By segment",
        "A segment where the tuned model is left of the untuned one lost by the tuning.",
        spec,
    )


def _scores(model: str, rows: Sequence[Json]) -> Chart:
    """Return the chart of one model, on the scales of both."""
    x = {
        "type": "quantitative",
        "scale": {"nice": False, "domain": [rows[0]["from"], rows[-1]["to"]]},
    }
    y = {
        "type": "quantitative",
        "scale": {"domain": [0, max(row["share"] for row in rows)]},
        "stack": None,
    }
    spec = _table("scores") | {
        "transform": [
            {"filter": f"datum.model === '{model}'"},
            {"calculate": "datum.relevant ? 'relevant' : 'not relevant'", "as": "kind"},
        ],
        "mark": {"type": "bar", "opacity": 0.55, "binSpacing": 0},
        "encoding": {
            "x": {
                "field": "from",
                "title": "cosine of query and title",
                "bin": {"binned": True},
                **x,
            },
            "x2": {"field": "to"},
            "y": {"field": "share", "title": "share of rows", "axis": {"format": "%"}, **y},
            "color": _kinds("relevant", "not relevant"),
            "tooltip": [
                {"field": "kind", "title": "rows"},
                {"field": "from"},
                {"field": "to"},
                {"field": "share", "type": "quantitative", "format": ".1%"},
            ],
        },
        "height": 200,
    }
    return Chart(f"scores-{model.split()[0]}", model, "", spec, narrow=True)


def _map(model: str) -> Chart:
    here = [{"filter": f"datum.model === '{model}'"}]
    plane = {"type": "quantitative", "axis": None, "scale": {"zero": False}}
    links = {
        "data": {"name": "links"},
        "transform": here,
        "mark": {"type": "rule", "opacity": 0.35, "aria": False},
        "encoding": {
            "x": {"field": "x", **plane},
            "y": {"field": "y", **plane},
            "x2": {"field": "x2"},
            "y2": {"field": "y2"},
        },
    }
    points = {
        "data": {"name": "points"},
        "transform": here,
        "mark": {"type": "point", "filled": True, "size": 45, "opacity": 0.9},
        "encoding": {
            "x": {"field": "x", **plane},
            "y": {"field": "y", **plane},
            "color": _kinds("title", "query"),
            "shape": {"field": "kind", "type": "nominal", "title": None},
            "tooltip": _tips({"text": "text", "kind": "kind"}),
        },
    }
    return Chart(
        f"map-{model.split()[0]}", model, "", {"layer": [links, points], "height": 340}, narrow=True
    )
