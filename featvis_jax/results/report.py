"""The report of a reproduction, as a page and as Markdown, from one file of numbers.

Whatever is said in digits comes from the numbers: the templates have none of their own.
"""

import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from featvis_jax.results.files import atomic_write_bytes
from featvis_jax.results.gallery.site import folded, sizes_css, templates
from featvis_jax.results.tables import STATUSES

_OF_TARGETS = ("driven", "weak")
MARKS: Mapping[str, str] = {
    "holds": "\u25cf",
    "does not hold": "\u25b3",
    "cannot be told": "\u25cb",
}
"""A sign for every verdict, since a colour alone says nothing to many."""


def write_report(directory: Path, numbers: Mapping[str, Any]) -> list[Path]:
    """Write report.html, its style, and report.md.

    Args:
      directory: Where to; figures are looked for below it.
      numbers: What `experiments.reproduce_paper` gathered in numbers.json.

    Returns:
      The two reports.

    Raises:
      KeyError: If a sentence asks for a number that is not there.
      OSError: If a file cannot be written.
    """
    static = resources.files("featvis_jax.results.gallery") / "static"
    style = (static / "gallery.css").read_bytes() + (static / "report.css").read_bytes()
    atomic_write_bytes(directory / "report.css", sizes_css([]).encode() + style)
    paths = []
    for suffix in ("html", "md"):
        text = _environment(escaped=suffix == "html").get_template(f"report.{suffix}")
        path = directory / f"report.{suffix}"
        atomic_write_bytes(path, text.render(context(numbers)).encode())
        paths.append(path)
    return paths


def context(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Put what the templates use together: the numbers, and sentences made with them.

    Args:
      numbers: As for `write_report`.

    Returns:
      Names and values for the templates.

    Example:
      >>> stated = {"told": "{share} of {count}", "measured": {"share": 0.25, "count": 3},
      ...           "verdict": "holds", "section": "4"}
      >>> context({"statements": [stated]})["statements"][0]["measurement"]
      '0.25 of 3'
    """
    stated = [
        {**each, "measurement": sentence(each["told"], each["measured"])}
        for each in numbers["statements"]
    ]
    verdicts = [each["verdict"] for each in stated]
    sections: dict[str, list[dict[str, Any]]] = {}
    for each in stated:
        sections.setdefault(each["section"], []).append(each)
    return {
        **numbers,
        "statements": stated,
        "sections": sections,
        "verdicts": {verdict: verdicts.count(verdict) for verdict in MARKS},
        "marks": MARKS,
        # Without a target nothing is driven or weak, and such columns would be empty.
        "statuses": [
            status
            for status in STATUSES
            if status not in _OF_TARGETS
            or any(row.get(status) for row in numbers.get("health", ()))
        ],
    }


def sentence(told: str, measured: Mapping[str, Any]) -> str:
    """Put numbers into a sentence.

    Args:
      told: With the names of numbers in braces.
      measured: The numbers by name; None for one that there is none of.

    Returns:
      The sentence.

    Example:
      >>> sentence("{p} of {strategy}", {"p": 0.00195, "strategy": "rotation_30"})
      '0.00195 of rotation_30'
    """
    return told.format(**{name: _cell(value) for name, value in measured.items()})


def number(value: float | None) -> str:
    """Write a number with three significant digits, whole ones as they are.

    Args:
      value: A number; None or NaN where there is none.

    Returns:
      Text.

    Example:
      >>> number(0.123456), number(1534), number(-0.5), number(None), number(1.2e-12)
      ('0.123', '1534', '−0.5', 'n/a', '1.2e−12')
    """
    if value is None or not math.isfinite(value):
        return "n/a"
    text = str(value) if isinstance(value, int) else f"{value + 0.0:.3g}"
    if "e" in text and abs(value) >= 1:
        text = f"{value:.0f}"
    return text.replace("e-0", "e-").replace("-", "\u2212")


def percent(value: float | None) -> str:
    """Write a percentage with two decimals, as the paper does.

    Args:
      value: In percent; None or NaN where there is none.

    Returns:
      Text without the sign.

    Example:
      >>> percent(99.349), percent(-0.25)
      ('99.35', '−0.25')
    """
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value:.2f}".replace("-", "\u2212")


def _cell(value: object) -> object:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, int | float):
        return number(value)
    raise TypeError(f"expected text or a number in a sentence; got {value!r}.")


def _environment(*, escaped: bool) -> jinja2.Environment:
    environment = templates() if escaped else templates().overlay(autoescape=False)
    environment.filters.update(percent=percent, short=number, cell=_cell, folded=folded)
    return environment
