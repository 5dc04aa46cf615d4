"""Classes that the model was trained for: a Vision Transformer or an EfficientNet with its classifier."""

from typing import Any, ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8

from align_jax.inference.classifier import Classifier
from align_jax.inference.pipelines.base import ImagePipeline, Prediction, Refuse
from align_jax.inference.pipelines.download import Urls

ScoreFunction = Literal["sigmoid", "softmax", "none"]


class ImageClassificationPipeline(ImagePipeline):
    """That of `transformers`: the classes with the largest scores, which a function makes of the logits.

        classify = pipeline("image-classification", model="kakaobrain/vit-large-patch16-384")
        classify("cat.jpg", top_k=2)    # [{"label": "remote control", "score": 0.82}, …]

    Args:
        classifier: the model.
        top_k: classes that are named, at most.
        function_to_apply: "softmax", "sigmoid" or "none"; where it is absent, the configuration's `problem_type` and
            number of classes decide.
        batch_size: see `ImagePipeline`.
        urls: see `ImagePipeline`.
        timeout: see `ImagePipeline`.
        refuse: see `ImagePipeline`.
    """

    task: ClassVar[str] = "image-classification"

    def __init__(
        self,
        classifier: Classifier,
        *,
        top_k: int | None = None,
        function_to_apply: str | None = None,
        batch_size: int = 1,
        urls: Urls = "refuse",
        timeout: float | None = None,
        refuse: Refuse | None = None,
    ):
        super().__init__(batch_size, urls, timeout, refuse)
        self.classifier = classifier
        self._top_k, self._function = top_k, _checked(function_to_apply)

    def __call__(
        self,
        inputs: Any = None,
        *,
        top_k: int | None = None,
        function_to_apply: str | None = None,
        batch_size: int | None = None,
        timeout: float | None = None,
        images: Any = None,
        num_workers: int | None = None,
    ) -> Any:
        """Classifies one image or several.

        Args:
            inputs: one, in any form that `align_jax.inference.pipelines.images` lists; a list of them; or a generator,
                which is read as the result is consumed.
            top_k: in place of that of the pipeline; 5 where neither is given.
            function_to_apply: in place of that of the pipeline.
            batch_size: in place of that of the pipeline.
            timeout: in place of that of the pipeline.
            images: another name for `inputs`.
            num_workers: has no effect; images are read by threads.

        Returns:
            `[{"label": …, "score": …}, …]`, the best first; a list of such lists for several images; a generator of
            them for a generator.

        Raises:
            ValueError: if images are missing, an image cannot be read, or an argument is not what it should be.
            TypeError: if an image is nothing that could be one.
        """
        del num_workers
        inputs = inputs if images is None else images
        if inputs is None:
            raise ValueError("there is no image to classify; give one, or a list of them")
        count = next((value for value in (top_k, self._top_k) if value is not None), 5)
        if count < 1:
            raise ValueError(f"top_k {count} is not positive; use 1 or more")
        function = _checked(function_to_apply) or self._function or self._function_of_the_model()
        labels = self.classifier.config.id2label

        def classify(pixels: list[UInt8[np.ndarray, "_ _ 3"]]) -> list[list[Prediction]]:
            return [_ranked(_scores(row, function), labels)[:count] for row in self.classifier.logits(pixels)]

        return self._run(inputs, classify, batch_size, timeout)

    def _function_of_the_model(self) -> ScoreFunction:
        config = self.classifier.config
        if config.problem_type == "regression":
            return "none"
        many = config.problem_type == "multi_label_classification" or len(config.id2label) == 1
        return "sigmoid" if many else "softmax"


def _checked(function: str | None) -> ScoreFunction | None:
    if function is None:
        return None
    for known in get_args(ScoreFunction):
        if known == function.lower():
            return known
    raise ValueError(f"function_to_apply {function!r} is not known; use one of {', '.join(get_args(ScoreFunction))}")


def _scores(logits: Float[np.ndarray, "K"], function: ScoreFunction) -> Float[np.ndarray, "K"]:
    if function == "none":
        return logits
    if function == "sigmoid":
        # Of the two forms of the same number, the one that cannot overflow.
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def _ranked(scores: Float[np.ndarray, "K"], labels: tuple[str, ...]) -> list[Prediction]:
    """The largest first; among equals, in the order of the classes."""
    order = np.argsort(-scores, kind="stable")
    return [{"label": labels[index], "score": float(scores[index])} for index in order]
