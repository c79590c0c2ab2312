"""The static gate: reads what an untrusted upload claims to be, without loading any of it.

Standard library only. The one thing parsed is bounded JSON; nothing is executed, imported or
unpickled, and no bytes of weights are looked at.
"""

from __future__ import annotations

from api.gate.arrays import check_npz
from api.gate.models import check_model_archive, check_model_config
from api.gate.records import ArrayFacts, LossFacts, ModelFacts, Refused
from api.gate.text import parse_json

__all__ = [
    "ArrayFacts",
    "LossFacts",
    "ModelFacts",
    "Refused",
    "check_model_archive",
    "check_model_config",
    "check_npz",
    "parse_json",
]
