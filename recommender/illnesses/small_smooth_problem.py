"""Problems small enough for methods that look at all data at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.remedies import class_names

# Weights, and layers that hold them.
PARAMETERS, DEPTH = 5000, 3
# A step on all rows must not cost more than so many minibatches.
BATCHES = 300
UNFIT = (
    "ReLU", "LeakyReLU", "MaxPooling2D", "MaxPooling1D", "Dropout", "BatchNormalization",
    "Embedding",
)  # fmt: skip
# Words for models whose losses have many valleys.
DEEP = ("recurrent", "attention", "convolution")


class SmallSmoothProblem(Illness):
    """Linear models and small smooth nets: second-order methods on all rows need few steps."""

    code: ClassVar[str] = "small_smooth_problem"
    moment: ClassVar[Moment] = "data"
    hint: ClassVar[bool] = True
    source: ClassVar[str] = (
        "Nocedal, Wright, Numerical Optimization, 2006, chapters 7 and 10; measured in "
        "docs/benchmarks/second_order.md"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on size, depth, and smooth activations."""
        description, problem = evidence.description, evidence.problem
        unfit = any(kind in description.layers for kind in UNFIT) or any(
            getattr(getattr(layer, "activation", None), "__name__", "") in ("relu", "leaky_relu")
            for layer in problem.model.layers
        )
        small = description.parameters <= PARAMETERS and description.depth <= DEPTH
        if any(word in description.tags for word in DEEP):
            return None
        if unfit or not small or problem.steps_per_epoch > BATCHES:
            return None
        return self.found(
            f"{description.parameters} weights and smooth layers: methods that see all rows at "
            f"once may need far fewer steps. Try {class_names(self.code)} with "
            "keras_gradopt.bind(model) and the whole data as one batch.",
            float(description.parameters),
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Words: such methods need a bound model."""
        change = f"Try {class_names(self.code)} on the whole data as one batch."
        return [Mend(self.code, change, finding.text)]
