"""The static gate: reads what an untrusted upload claims to be, without loading any of it.

Standard library only. Parsed are bounded JSON, the cells of csv files and the footers of Parquet
files; nothing is executed, imported or unpickled, and no bytes of weights are looked at.
"""

from __future__ import annotations

from api.gate.arrays import check_npz
from api.gate.datasets import DatasetFacts, check_dataset
from api.gate.models import check_model_archive, check_model_config
from api.gate.records import ArrayFacts, LossFacts, ModelFacts, Refused
from api.gate.text import parse_json

__all__ = [
    "ArrayFacts",
    "DatasetFacts",
    "LossFacts",
    "ModelFacts",
    "Refused",
    "check_dataset",
    "check_model_archive",
    "check_model_config",
    "check_npz",
    "parse_json",
]
