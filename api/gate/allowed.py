"""The names that an uploaded model may use, as Keras 3.15 writes them; what is missing is refused.

Left out on purpose: what runs code (Lambda, TFSMLayer, TorchModuleWrapper, JaxLayer, FlaxLayer),
reads files or holds vocabularies (StringLookup, IntegerLookup, TextVectorization, Hashing), or
mixes labels into its inputs (MixUp, CutMix).
"""

from __future__ import annotations

from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LAYERS = _words(
    """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
    AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add
    AdditiveAttention AlphaDropout Attention AutoContrast Average AveragePooling1D AveragePooling2D
    AveragePooling3D BatchNormalization Bidirectional CategoryEncoding CenterCrop Concatenate Conv1D
    Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D
    Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot
    Dropout ELU EinsumDense Embedding Equalization Flatten GRU GRUCell GaussianDropout GaussianNoise
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D
    GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GroupQueryAttention Identity InputLayer
    LSTM LSTMCell LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D
    Maximum MelSpectrogram Minimum MultiHeadAttention Multiply Normalization PReLU Permute Pipeline
    RMSNormalization RNN RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast
    RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale
    RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation
    RandomSharpness RandomShear RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape
    Resizing ReversibleEmbedding STFTSpectrogram SeparableConv1D SeparableConv2D SimpleRNN
    SimpleRNNCell Softmax Solarization SpatialDropout1D SpatialDropout2D SpatialDropout3D
    SpectralNormalization StackedRNNCells Subtract TimeDistributed UnitNormalization UpSampling1D
    UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
    """
)
INITIALIZERS = _words(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones
    Orthogonal RandomNormal RandomUniform STFT TruncatedNormal VarianceScaling Zeros
    """
)
REGULARIZERS = frozenset({"L1", "L1L2", "L2", "OrthogonalRegularizer"})
CONSTRAINTS = frozenset({"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"})

FUNCTIONAL = ("keras.src.models.functional", "Functional")
SEQUENTIAL = ("keras", "Sequential")
MODELS = frozenset(
    {
        FUNCTIONAL,
        SEQUENTIAL,
        ("keras", "Model"),
        ("keras.models", "Model"),
        ("keras.models", "Sequential"),
    }
)
LAYER_CLASSES = frozenset(("keras.layers", name) for name in LAYERS) | MODELS
# What Keras puts between the layers of a functional model on its own: masks, and x + y for layers.
OPERATIONS = frozenset(
    ("keras.src.ops.numpy", name)
    for name in _words(
        """
        Any Concatenate ExpandDims LogicalAnd LogicalOr NotEqual OnesLike ZerosLike
        Add Divide Multiply Negative Subtract TrueDivide
        """
    )
)
GRAPH_CLASSES = LAYER_CLASSES | OPERATIONS
POLICY = ("keras", "DTypePolicy")
CLASSES = (
    GRAPH_CLASSES
    | frozenset(("keras.initializers", name) for name in INITIALIZERS)
    | frozenset(("keras.regularizers", name) for name in REGULARIZERS)
    | frozenset(("keras.constraints", name) for name in CONSTRAINTS)
    | {POLICY, ("keras.random", "SeedGenerator")}
)
# Classes that carry code or a path to it: refused even in the parts of a config that are dropped.
CODE_CARRIERS = _words(
    """
    __lambda__ __typespec__ Lambda TFSMLayer TorchModuleWrapper JaxLayer FlaxLayer
    StringLookup IntegerLookup TextVectorization
    """
)

# Names that Keras takes as text in place of an object; the key of a config says which.
ACTIVATIONS = _words(
    """
    celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu
    linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus
    softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink threshold
    """
)
DTYPES = _words(
    """
    bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64
    mixed_float16 mixed_bfloat16
    """
)
TEXT_BY_KEY = {
    "activation": ACTIVATIONS,
    "initializer": INITIALIZERS
    | _words(
        """
        constant glorot_normal glorot_uniform he_normal he_uniform identity lecun_normal
        lecun_uniform normal one ones orthogonal random_normal random_uniform truncated_normal
        uniform variance_scaling zero zeros
        """
    ),
    "regularizer": REGULARIZERS | {"l1", "l1l2", "l2", "orthogonal_regularizer"},
    "constraint": CONSTRAINTS | {"max_norm", "min_max_norm", "non_neg", "unit_norm"},
    "dtype": DTYPES,
}
# Keys whose numbers are values rather than sizes, and may be large.
VALUE_KEYS = _words(
    """
    bin_boundaries fill_value lower mask_value max_value maxval mean min_value minval offset scale
    seed stddev threshold upper value value_range variance
    """
)
# Layers that hand on the width of what they are given.
WIDTH_KEEPING = _words(
    """
    Activation ActivityRegularization AlphaDropout BatchNormalization Dropout ELU GaussianDropout
    GaussianNoise Identity LayerNormalization LeakyReLU PReLU RMSNormalization ReLU Rescaling
    Softmax UnitNormalization
    """
)

LOSSES = {
    "BinaryCrossentropy": "binary_crossentropy",
    "CategoricalCrossentropy": "categorical_crossentropy",
    "CategoricalHinge": "categorical_hinge",
    "CosineSimilarity": "cosine_similarity",
    "Hinge": "hinge",
    "Huber": "huber",
    "KLDivergence": "kl_divergence",
    "LogCosh": "log_cosh",
    "MeanAbsoluteError": "mean_absolute_error",
    "MeanAbsolutePercentageError": "mean_absolute_percentage_error",
    "MeanSquaredError": "mean_squared_error",
    "MeanSquaredLogarithmicError": "mean_squared_logarithmic_error",
    "Poisson": "poisson",
    "SparseCategoricalCrossentropy": "sparse_categorical_crossentropy",
    "SquaredHinge": "squared_hinge",
}
LOSS_NAMES = {
    **{name: name for name in LOSSES.values()},
    **LOSSES,
    **dict.fromkeys(("bce", "BCE"), "binary_crossentropy"),
    **dict.fromkeys(("kld", "KLD"), "kl_divergence"),
    **dict.fromkeys(("mae", "MAE"), "mean_absolute_error"),
    **dict.fromkeys(("mape", "MAPE"), "mean_absolute_percentage_error"),
    **dict.fromkeys(("mse", "MSE"), "mean_squared_error"),
    **dict.fromkeys(("msle", "MSLE"), "mean_squared_logarithmic_error"),
}
# What a loss object's config holds when nothing but from_logits was chosen.
PLAIN_LOSS = {
    "reduction": "sum_over_batch_size",
    "axis": -1,
    "label_smoothing": 0.0,
    "ignore_class": None,
    "delta": 1.0,
}


def is_in(value: Any, names: frozenset[str]) -> bool:
    """Whether a value of any kind is one of the names."""
    return isinstance(value, str) and value in names


def is_in_graph(value: dict[str, Any]) -> bool:
    """Whether a config is one of a layer, a model or an operation between layers."""
    name = value.get("class_name")
    return name is not None and (value.get("module"), name) in GRAPH_CLASSES


def is_model(value: dict[str, Any]) -> bool:
    """Whether a config with a class name is one of a model."""
    return (value.get("module"), value["class_name"]) in MODELS
