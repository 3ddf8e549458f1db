"""Owns the report's page: values in, one file of HTML out, which asks no network for anything; gathers no value."""

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from gonbuild.prompts import REPORT as TEMPLATE
from gonbuild.sketches import histogram, loss_curve
from gonbuild.sources import INVISIBLE
from gonbuild.workspace import Workspace

PAGE = "build/report/index.html"
_UNSEEN = re.compile(f"(?!\t){INVISIBLE.pattern}")


def render_report(ws: Workspace, values: Mapping[str, Any]) -> bytes:
    """Renders what `overview` gathered with the project's report.html.jinja; the same values give the same bytes.

    Raises:
        InputError: the template fails, with its line, or the project has none.
    """
    training = values["training"]
    pictures = [
        # Pictures are all that is not escaped: numbers, and words of ours that sketches escapes itself.
        {**told, "picture": Markup(histogram(told["unit"], told["kept"], told["dropped"], told["limits"]))}
        for told in values["distributions"]
    ]
    curve = Markup(loss_curve(training["losses"])) if training else ""
    text = ws.templates.render(TEMPLATE, **{**values, "distributions": pictures, "curve": curve})
    # What a model wrote and filters dropped may hold what steers a terminal, or turns the text around it.
    return _UNSEEN.sub("\ufffd", text).encode("utf-8", "replace")
