"""The numbers published in the papers, as data for tests, tools and documentation."""
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict

import yaml


@lru_cache(maxsize=None)
def load_tables() -> Dict[str, Any]:
    """Return the published tables: AP and accuracy in percent, parameters in M, FLOPs in G.

    FLOPs are multiply-adds, as the papers count them. Sources stand at the top of ``tables.yaml``.
    """
    return yaml.safe_load((Path(__file__).parent / 'tables.yaml').read_text(encoding='utf-8'))
