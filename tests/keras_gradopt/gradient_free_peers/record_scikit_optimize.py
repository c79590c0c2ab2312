"""Records the regret of scikit-optimize on two functions, to compare ours with.

It is no test dependency and runs in an environment of its own, from the root of the project:

    python3 -m venv skopt-env
    skopt-env/bin/pip install scikit-optimize==0.10.2 scikit-learn==1.9.1
    skopt-env/bin/python -m tests.keras_gradopt.gradient_free_peers.record_scikit_optimize

It writes recorded/scikit_optimize.json beside itself: for each function the simple regret after
each evaluation of 15 seeds, by `gp_minimize` with expected improvement and its defaults otherwise,
started at the centre.
"""

from __future__ import annotations

import json
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import sklearn
import skopt

from benchmarks.parts.boxes import BOXES, regrets

SEEDS = range(15)
FILE = Path(__file__).parent / "recorded" / "scikit_optimize.json"


def curve(name: str, seed: int) -> list[float]:
    """Regret after each evaluation, in five digits."""
    box = BOXES[name]
    warnings.simplefilter("ignore")  # that a point was evaluated before
    found = skopt.gp_minimize(
        lambda u: float(box.loss(u)),
        [(0.0, 1.0)] * box.dimensions,
        n_calls=box.evaluations,
        x0=[0.5] * box.dimensions,
        acq_func="EI",
        random_state=seed,
    )
    return [float(f"{r:.5g}") for r in regrets(found.func_vals, box)]


def main() -> None:
    peer = {"scikit-optimize": skopt.__version__, "scikit-learn": sklearn.__version__}
    report = {"peer": peer, "seeds": list(SEEDS), "curves": {}}
    with ProcessPoolExecutor(int(os.environ.get("WORKERS", "1"))) as pool:
        for name in BOXES:
            report["curves"][name] = list(pool.map(curve, [name] * len(SEEDS), SEEDS))
            ends = sorted(c[-1] for c in report["curves"][name])
            print(name, "median regret", ends[len(ends) // 2], flush=True)
    FILE.write_text(json.dumps(report) + "\n", "utf-8")


if __name__ == "__main__":
    main()
