"""The numbers published in the papers, as data for tests, tools and documentation."""
from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def load_tables() -> dict[str, Any]:
    """Return the published tables: AP and accuracy in percent, parameters in M, FLOPs in G.

    FLOPs are multiply-adds, as the papers count them. Sources stand at the top of ``tables.yaml``.
    """
    return yaml.safe_load((Path(__file__).parent / 'tables.yaml').read_text(encoding='utf-8'))
