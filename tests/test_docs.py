"""What the pages in docs/ tell a reader to type does what they say."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


@pytest.mark.optax  # A reader's JAX promotes dtypes.
def test_the_engine_runs_as_its_page_says(capsys):
    for block in blocks("engine.md"):
        exec(compile(block, "docs/engine.md", "exec"), {})
    assert capsys.readouterr().out == "[('stem', (32, 32, 8)), ('logits', (2,))]\n"
