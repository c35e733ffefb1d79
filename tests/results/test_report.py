"""The report: every digit in it comes from its file of numbers, and nothing is left out."""

import copy
import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from featvis_jax.results import report

NUMBERS = {
    "title": "A reproduction",
    "settings": {
        "scale": "small",
        "cohort": "brains_17",
        "subjects": 36,
        "voxel_mm": 1.0,
        "seed": 3,
        "interval": "95 %",
        "accuracy_note": "As it is.",
    },
    "versions": {"python": "3.11.7", "jax": "0.10.2"},
    "minutes": 41.26,
    "accuracy": [
        {
            "title": "Sex <3-D>",
            "paper_percent": 92.22,
            "percent": 57.142857,
            "low_percent": 28.57,
            "high_percent": 81.9,
            "images": 7,
            "subjects": 7,
            "shape": "91×109×91",
            "voxel_mm": 2.0,
            "weights": "trained here, best at step 60",
            "method": "Wilson",
        }
    ],
    "figures": [{"name": "Figure 1", "file": "figures/figure1.png", "caption": "A slice."}],
    "statements": [
        {
            "section": "3.1",
            "text": "Stripes & waves",
            "told": "{share} of {count} images, p {p}",
            "measured": {"share": 0.123456, "count": 8, "p": 0.0019531},
            "verdict": "holds",
            "ruled": "holds if p is below 0.05",
            "source": "measures/images.tsv",
        },
        {
            "section": "4",
            "text": "Sharper",
            "told": "{first} under {strategy}",
            "measured": {"first": None, "strategy": "rotation_30"},
            "verdict": "cannot be told",
            "ruled": "never",
            "source": "comparison/comparison.tsv",
        },
    ],
    "health": [
        {
            "title": "Sex",
            "layer": "conv4",
            **{"count": 64, "alive": 41, "unsettled": 7, "noise": 2, "uniform": 13},
            **{"unmoved": 0, "dead": 1, "diverged": 0},
            "uniform_percent": 20.3125,
        }
    ],
    "grades": [
        {
            "title": "cubes",
            "kind": "picture",
            "score": "named",
            **{"passed": 19, "count": 24, "percent": 79.1667},
            **{"low_percent": 59.5, "high_percent": 90.76},
            "source": "grades/cube/summary.tsv",
        }
    ],
    "stages": [{"name": "train-sex", "command": "python -m a --steps=80", "minutes": 11.5}],
}
DIGITS = re.compile(r"\d+(?:[.,]\d+)*")


class Text(HTMLParser):
    """What a reader sees of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_data(self, data: str) -> None:
        self.seen.append(data)


def visible(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text("utf-8")
    parser = Text()
    parser.feed(path.read_text("utf-8"))
    return "\n".join(parser.seen)


def written(value: object) -> set[str]:
    """Every run of digits that a number or a text of the file may be shown as, and nothing else."""
    if isinstance(value, dict):
        return set().union(*(written(each) for pair in value.items() for each in pair))
    if isinstance(value, list):
        # How many there are of something may be said too.
        return {str(len(value))}.union(*(written(each) for each in value))
    if isinstance(value, str):
        return set(DIGITS.findall(value))
    if isinstance(value, bool) or value is None:
        return set()
    shown = f"{report.number(value)} {report.percent(value)}"
    return set(DIGITS.findall(shown))


def unaccounted(path: Path, numbers: dict) -> set[str]:
    """Digits of a report that its numbers do not have."""
    verdicts = [each["verdict"] for each in numbers["statements"]]
    counted = {str(verdicts.count(verdict)) for verdict in report.MARKS}
    return set(DIGITS.findall(visible(path))) - written(numbers) - counted


def test_every_digit_comes_from_the_numbers(tmp_path):
    for path in report.write_report(tmp_path, NUMBERS):
        assert not unaccounted(path, NUMBERS), path
        # The check sees a digit that comes from nowhere.
        path.write_text(path.read_text("utf-8").replace("57.14", "57.15"), "utf-8")
        assert unaccounted(path, NUMBERS) == {"57.15"}


@pytest.mark.parametrize("suffix", ["html", "md"])
def test_the_template_itself_has_no_digit(suffix):
    text = (
        resources.files("featvis_jax.results.gallery") / "templates" / f"report.{suffix}"
    ).read_text("utf-8")
    said = re.sub(r"<[^>]*>", "", re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "", text))
    assert not DIGITS.findall(said)


def test_numbers_are_shown_where_they_belong(tmp_path):
    html, markdown = report.write_report(tmp_path, NUMBERS)
    for path in (html, markdown):
        text = visible(path)
        for shown in (
            *("57.14 %", "28.57 to 81.90 %", "92.22 %", "0.123 of 8 images, p 0.00195"),
            *("79.17 %", "59.50 to 90.76 %"),
        ):
            assert shown in text, (path, shown)
        assert "n/a under rotation_30" in text
        assert "1 hold, 0 do not, and of 1 it cannot be told" in text
        assert "● holds" in " ".join(text.split())
    assert 'src="figures/figure1.png"' in html.read_text("utf-8")
    assert "](figures/figure1.png)" in markdown.read_text("utf-8")
    # A page escapes, Markdown does not.
    assert "Sex &lt;3-D&gt;" in html.read_text("utf-8")
    assert "Stripes & waves" in markdown.read_text("utf-8")
    assert ".report" in (tmp_path / "report.css").read_text("utf-8")


def test_another_number_gives_another_report(tmp_path):
    changed = copy.deepcopy(NUMBERS)
    changed["accuracy"][0]["percent"] = 61.5
    _, markdown = report.write_report(tmp_path, changed)
    assert "61.50 %" in markdown.read_text("utf-8")
    assert not unaccounted(markdown, json.loads(json.dumps(changed)))


def test_a_sentence_that_asks_for_a_number_that_is_not_there_is_refused(tmp_path):
    changed = copy.deepcopy(NUMBERS)
    changed["statements"][0]["told"] = "{nothing}"
    with pytest.raises(KeyError, match="nothing"):
        report.write_report(tmp_path, changed)
