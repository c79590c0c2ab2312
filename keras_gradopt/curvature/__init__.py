"""The curvature of a model's loss on data, without ever forming a matrix.

Every function takes a model and data, or a `DataLandscape` made of them once, which compiles once
for many questions. Importing this package does not import Keras; touching a name does.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "ConditionNumber": "conditioning",
    "DataLandscape": "data_landscape",
    "Descent": "descent",
    "Eigenpairs": "eigenpairs",
    "Estimate": "hutchinson",
    "Inspection": "inspection",
    "NoiseScale": "noise",
    "SpectralDensity": "density",
    "Stability": "stability",
    "Surface": "plane",
    "condition_number": "conditioning",
    "diagonal": "hutchinson",
    "fvp": "products",
    "ggnvp": "products",
    "gradient_noise_scale": "noise",
    "hvp": "products",
    "inspect": "inspecting",
    "spectral_density": "density",
    "surface": "plane",
    "top_eigenpairs": "eigenpairs",
    "trace": "hutchinson",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
