"""update_batch_norm: the statistics of BatchNormalization for weights that were averaged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import ops

from keras_gradopt import backend
from keras_gradopt.callbacks.evaluation_weights import averaging_optimizer

Tensor = Any


def update_batch_norm(model: keras.Model, x: Any, batch_size: int = 32) -> int:
    r"""Sets BatchNormalization's moving statistics to those of the present weights.

    Averaged weights (`WeightAveraging`, Schedule-Free optimizers) were never run in training, so
    the statistics in the model belong to others. This runs the data through the model once and
    takes the plain mean of all minibatches' statistics. The averaged weights are put into the model
    first, where the optimizer keeps some.

    Args:
        model: The model; one without BatchNormalization is left alone.
        x: Inputs: an array, a dict or list of arrays, or an iterable of minibatches (a dataset; of
            tuples the first item counts).
        batch_size: Rows to a minibatch where `x` holds arrays, at least 1.

    Returns:
        How many minibatches were run.

    Raises:
        ValueError: `x` holds no minibatch.

    Example:
        >>> model.compile(optimizer=WeightAveraging("sgd"), loss="mse")
        >>> history = model.fit(x, y, verbose=0)
        >>> update_batch_norm(model, x)
        2

    References:
        Izmailov, Podoprikhin, Garipov, Vetrov, Wilson. Averaging Weights Leads to Wider Optima and
        Better Generalization. UAI 2018, section 3.2. As torch.optim.swa_utils.update_bn, which
        takes the unbiased variance where Keras takes the biased one.
    """
    optimizer = averaging_optimizer(model)
    if optimizer is not None:
        optimizer.put_evaluation_weights()
    layers = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not layers:
        return 0
    usual = [layer.momentum for layer in layers]
    count = 0
    try:
        for batch in _minibatches(x, batch_size):
            for layer in layers:
                # So the moving statistics become the mean of those seen: the first counts whole.
                layer.momentum = count / (count + 1)
            with backend.no_gradient():
                model(batch, training=True)
            count += 1
    finally:
        for layer, momentum in zip(layers, usual, strict=True):
            layer.momentum = momentum
    if not count:
        raise ValueError("x holds no minibatch: give an array with rows, or a dataset.")
    return count


def _minibatches(x: Any, batch_size: int) -> Iterator[Any]:
    leaves = keras.tree.flatten(x)
    if all(hasattr(leaf, "shape") and len(leaf.shape) for leaf in leaves) and leaves:
        for start in range(0, leaves[0].shape[0], batch_size):
            stop = start + batch_size
            yield keras.tree.map_structure(
                lambda leaf, a=start, b=stop: ops.convert_to_tensor(leaf[a:b]), x
            )
        return
    if not isinstance(x, Iterable) and not isinstance(x, keras.utils.PyDataset):
        raise ValueError(f"x must hold arrays or minibatches, received {type(x).__name__}.")
    rows = (x[i] for i in range(len(x))) if isinstance(x, keras.utils.PyDataset) else x
    for batch in rows:
        yield batch[0] if isinstance(batch, tuple) else batch
