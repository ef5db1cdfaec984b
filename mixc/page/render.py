"""A template and values in, a page out."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mixc.page import plots

_ROOMS = Path(__file__).parents[1]


def render(template: str, **values: Any) -> str:
    """The page that `template`, a path in `mixc/` such as `report/report.html.j2`, makes of `values`.

    All text is escaped; what must not be is `Markup`. A value that the template names and `values` lacks is an error.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_ROOMS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    environment.filters |= {"count": _count, "percent": _percent, "zip": zip}
    # a style sheet is text between tags, not an attribute: quotes must stay, and ours holds no "</"
    environment.tests["said"] = lambda part: not isinstance(part, Markup)
    environment.globals |= {"plots": plots, "style": Markup((Path(__file__).parent / "style.css").read_text())}
    return environment


def _count(number: int) -> str:
    return f"{number:,}"


def _percent(share: float, digits: int = 2) -> str:
    return f"{share:.{digits}%}"
