"""Prints what the present decision rule does on every recorded task.

python -m recommender.knowledge.replay
"""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table

from recommender.forecast import blind_record, replay


def main() -> None:
    """Print one row per task, and the blind choice beside it."""
    table = Table(title="The rule on recorded tasks (it was chosen on them)")
    for heading in ("task", "grounds", "answer", "loss ratio", "time ratio", "blind loss ratio"):
        table.add_column(heading)
    blind = {o.task: o for o in blind_record()}
    outcomes = replay()
    for o in outcomes:
        table.add_row(
            o.task, o.basis, o.answer, f"{o.loss_ratio:.3f}", f"{o.time_ratio:.2f}",
            f"{blind[o.task].loss_ratio:.3f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    for name, rows in (("rule", outcomes), ("blind choice", list(blind.values()))):
        mean = float(np.exp(np.mean(np.log([o.loss_ratio for o in rows]))))
        worst = max(o.loss_ratio for o in rows)
        console.print(f"{name}: geometric mean {mean:.3f}, worst {worst:.3f}")


if __name__ == "__main__":
    main()
