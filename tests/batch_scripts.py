"""The batch scripts of docs/cluster.md, read from the page: what users copy is what is tested."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def scripts() -> dict[str, str]:
    """Every whole script by the file name that the text before it gives last."""
    text, found = (REPOSITORY / "docs/cluster.md").read_text(encoding="utf-8"), {}
    for block in _BLOCK.finditer(text):
        if block[1].startswith("#!/bin/bash\n"):
            name = re.findall(r"`(\w+\.sbatch)`", text[: block.start()])[-1]
            if name in found:
                raise ValueError(f"docs/cluster.md has two scripts after the name {name}.")
            found[name] = block[1]
    return found


def with_mpirun(script: str) -> str:
    """The script with the page's line of mpirun in the place of its line of srun."""
    text = (REPOSITORY / "docs/cluster.md").read_text(encoding="utf-8")
    (line,) = (block[1] for block in _BLOCK.finditer(text) if block[1].startswith("mpirun "))
    changed, count = re.subn(r"^srun .*\n", lambda _: line, script, flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"docs/cluster.md: {count} lines of srun; expected one to put mpirun in.")
    return changed
