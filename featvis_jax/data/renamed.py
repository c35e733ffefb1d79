"""Settings that earlier versions wrote under other names."""

from collections.abc import Mapping
from typing import Any


def current_names(told: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training under today's names: up to version 0.1, distractors were decoys.

    Args:
      told: A card's entry ``data``, or a settings.json.

    Example:
      >>> current_names({"decoys": [0, 3], "seed": 1})
      {'distractors': [0, 3], 'seed': 1}
    """
    return {"distractors" if name == "decoys" else name: value for name, value in told.items()}
