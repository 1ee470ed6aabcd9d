"""A scikit-learn estimator in a ``.skops`` file, as ONNX; needs the extra ``[sklearn]``.

skops rebuilds an estimator from a schema and asks before it imports a type that it does not know as
harmless. Such a file is refused here, with its types listed: unlike a pickle, it then has run
nothing.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto

from compiler.errors import SourceError
from compiler.graph.foreign import EXPORT_DOCS

_OPSET = 17

_HARMLESS = (
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
)
"""Types that every fitted MLP holds and skops does not list: they keep numbers and do no more."""


def load_estimator(name: str, data: bytes) -> ModelProto:
    """The estimator of a ``.skops`` file as ONNX, float32 ``[batch, features]`` in, scores out.

    Args:
        name: the file's, for messages.
        data: the whole file.

    Raises:
        SourceError: an extra is missing, the file is damaged or holds a type that skops does not
            trust, or skl2onnx cannot convert the estimator.
    """
    try:
        import skops.io
        from skl2onnx import to_onnx
    except ImportError as error:
        raise SourceError(
            f"{name} is a skops file with a scikit-learn estimator; reading it needs {error.name}",
            hint="pip install 'wherry[sklearn]', or export it to ONNX",
            docs=EXPORT_DOCS,
        ) from error
    # skops and skl2onnx walk a stranger's schema and raise whatever that leads to.
    try:
        strange = set(skops.io.get_untrusted_types(data=data)) - set(_HARMLESS)
        estimator = None if strange else skops.io.loads(data, trusted=list(_HARMLESS))
    except Exception as error:
        raise SourceError(
            f"{name} is a skops file that cannot be read: {_short(error)}",
            hint="was it written by another version of scikit-learn? export it to ONNX there",
            docs=EXPORT_DOCS,
        ) from error
    if strange:
        raise SourceError(
            f"{name} holds types that are not known to be harmless:"
            f" {', '.join(sorted(strange)[:8])[:300]}",
            hint="export it to ONNX where it was trained",
            docs=EXPORT_DOCS,
        )
    features = getattr(estimator, "n_features_in_", None)
    if not isinstance(features, int) or not hasattr(estimator, "predict_proba"):
        raise SourceError(
            f"{name} holds {type(estimator).__name__}; expected a fitted classifier with"
            " probabilities, such as MLPClassifier",
            docs=EXPORT_DOCS,
        )
    try:
        model = to_onnx(
            estimator,
            np.zeros((1, features), np.float32),
            options={"zipmap": False},
            target_opset={"": _OPSET, "ai.onnx.ml": 3},
        )
    # As above.
    except Exception as error:
        raise SourceError(
            f"{name}: skl2onnx cannot convert {type(estimator).__name__}: {_short(error)}",
            docs=EXPORT_DOCS,
        ) from error
    return onnx.load_model_from_string(model.SerializeToString())


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
