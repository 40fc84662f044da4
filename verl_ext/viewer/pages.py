"""Sources to HTML. All text goes through the template engine, which escapes it, or through ``textContent``."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eval.report.charts import Series, line_chart
from eval.report.charts.svg import element
from verl_ext.viewer.columns import group_view
from verl_ext.viewer.listing import Listing
from verl_ext.viewer.model import Curve, Group, number

MOST_POINTS = 400
"""Of a curve: more would be finer than a screen's pixels."""
SECTIONS = {
    "main": "",
    "reward": "Rewards by part",
    "loss": "Losses",
    "": "More",
    "stop": "Why dialogues ended",
    "seconds": "Seconds of a step, by phase",
}


@cache
def environment() -> Environment:
    """Our templates, and the report's look."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader("verl_ext.viewer"), PackageLoader("eval.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = number
    return made


@cache
def _script() -> tuple[str, str]:
    """The one script, and its hash for the content policy."""
    text = environment().get_template("viewer.js").render()
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _page(template: str, **context: Any) -> str:
    script, digest = _script()
    return environment().get_template(template).render(script=script, script_hash=digest, **context)


def index_page(listings: Mapping[str, Listing], live: bool) -> str:
    """The list, with all its rows as data: the script shows a page of them at a time."""
    first = listings["a"].source
    return _page(
        "index.html",
        title=" beside ".join(one.title for one in listings.values()),
        sources=listings,
        state=first.state(),
        live=live,
        data=Markup(_inside_html(index_json(listings))),
        curves=Markup(curves_fragment(listings)),
        facts=first.facts(),
    )


def index_json(listings: Mapping[str, Listing]) -> str:
    """``{"stamp", "sides": {"a": {...columns}}, "problems"}``."""
    stamps = json.dumps(_stamps(listings))
    found = {name: one.columns() for name, one in listings.items()}
    sides = ",".join(f'"{name}":{columns}' for name, (columns, _) in found.items())
    problems = json.dumps([problem for _, some in found.values() for problem in some])
    return f'{{"stamp":{stamps},"sides":{{{sides}}},"problems":{problems}}}'


def _stamps(listings: Mapping[str, Listing]) -> dict[str, str]:
    return {name: one.stamp() for name, one in listings.items()}


def stamp_json(listings: Mapping[str, Listing]) -> str:
    """What a page asks every other second."""
    return json.dumps({"stamp": _stamps(listings), "state": listings["a"].source.state()})


def _inside_html(text: str) -> str:
    """JSON inside a script element: nothing in it may look like markup."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def curves_fragment(listings: Mapping[str, Listing]) -> str:
    """The curves of one run, or of both in one plot each."""
    found: dict[str, tuple[str, list[Series]]] = {}
    for one in listings.values():
        for curve in one.source.curves():
            _, series = found.setdefault(curve.title, (curve.section, []))
            steps, values = thinned(curve)
            series.append(Series(one.side.upper() if len(listings) > 1 else curve.title, steps, values))
    sections: dict[str, list[Markup]] = {}
    for title, (section, series) in found.items():
        chart = line_chart(title, series, small=True)
        if chart:
            sections.setdefault(section, []).append(_followed(chart, series))
    ordered = [(SECTIONS.get(name, name.replace("_", " ")), charts) for name, charts in sections.items()]
    return environment().get_template("curves.html").render(sections=ordered)


def _followed(chart: Markup, series: Sequence[Series]) -> Markup:
    """A chart with its numbers beside it, for the pointer."""
    points = [[[x, None if not math.isfinite(y) else round(y, 6)] for x, y in s.points()] for s in series]
    names = [s.name for s in series]
    return element("div", chart, class_="curve", data_points=json.dumps(points), data_names=json.dumps(names))


def thinned(curve: Curve) -> tuple[list[float], list[float]]:
    """At most ``MOST_POINTS`` of a curve, each the mean of its neighbours."""
    size = math.ceil(len(curve.steps) / MOST_POINTS)
    if size <= 1:
        return list(curve.steps), list(curve.values)
    steps, values = [], []
    for start in range(0, len(curve.steps), size):
        known = [v for v in curve.values[start : start + size] if math.isfinite(v)]
        steps.append(curve.steps[start])
        values.append(math.fsum(known) / len(known) if known else math.nan)
    return steps, values


def group_page(listing: Listing, group: Group) -> str:
    """One prompt's dialogues in columns, and the way to its neighbours."""
    view, links = group_view(listing.side, group), listing.links(group.key)
    return _page("group.html", title=group.text, source=listing, view=view, links=links)


def pair_page(listings: Mapping[str, Listing], groups: Mapping[str, Group]) -> str:
    """The same prompt in two runs."""
    views = [(listings[side], group_view(side, group)) for side, group in groups.items()]
    return _page("pair.html", title=groups["a"].text, views=views)


def message_page(text: str) -> str:
    return _page("message.html", title="Not shown", text=text)
