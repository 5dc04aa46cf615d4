"""`ViTForImageClassification` and `EfficientNetForImageClassification`: the classes of `transformers`, by JAX.

model = ViTForImageClassification.from_pretrained("kakaobrain/vit-large-patch16-384")
logits = model(**image_processor(image, return_tensors="np")).logits
print(model.config.id2label[int(logits[0].argmax())])
"""

from typing import Any, ClassVar, TypeVar

from align_jax.configuration import EfficientNetConfig, ViTConfig
from align_jax.inference import forward
from align_jax.inference.forward import Wanted
from align_jax.inference.model_inputs import InputError, read_head_mask, read_images, read_targets
from align_jax.inference.outputs import ImageClassifierOutput, ImageClassifierOutputWithNoAttention
from align_jax.inference.pretrained import PretrainedModel
from align_jax.inference.torch_tensors import like_the_inputs
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.vit import ViT

ClassifierConfig = TypeVar("ClassifierConfig", ViTConfig, EfficientNetConfig)
ClassifierModule = TypeVar("ClassifierModule", ViT, EfficientNet)

Arrays = Any
"""NumPy, JAX or torch, or nested lists of numbers."""


class _Classifier(PretrainedModel[ClassifierConfig, ClassifierModule]):
    """What both have in common: there are classes."""

    def __init__(self, config: ClassifierConfig, *arguments: Any, **options: Any):
        super().__init__(config, *arguments, **options)
        if not config.id2label:
            raise InputError(
                f"this {config.model_type} is a tower without a classifier; give a model whose config.json names its "
                "classes in id2label"
            )


class ViTForImageClassification(_Classifier[ViTConfig, ViT]):
    """A Vision Transformer with its classifier (Dosovitskiy et al., arXiv 2010.11929)."""

    config_class: ClassVar[type] = ViTConfig
    module_class: ClassVar[type] = ViT

    def __call__(
        self,
        pixel_values: Arrays = None,
        head_mask: Arrays = None,
        labels: Arrays = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """Classifies images.

        Args:
            pixel_values: floating-point [images 3 H W].
            head_mask: [heads] or [layers heads], factors of the attention heads.
            labels: for the loss: classes [images]; or, by the kind of problem, numbers [images K].
            output_attentions: the attention of every layer.
            output_hidden_states: the embeddings and what comes out of every layer.
            interpolate_pos_encoding: takes images of any size, see `ViTConfig.position_interpolation`.
            return_dict: False gives `to_tuple()` of the output.

        Raises:
            InputError: if an input is missing, does not fit the model or the others, or holds values that it cannot.
        """
        images = read_images(pixel_values, self.config)
        side = self.config.image_size
        if not interpolate_pos_encoding and images.shape[2:] != (side, side):
            raise InputError(
                f"pixel_values are {images.shape[2]} x {images.shape[3]} px, but the model was made for {side} x "
                f"{side}; resize them, or set interpolate_pos_encoding=True"
            )
        options = {} if head_mask is None else {"head_mask": read_head_mask(head_mask, self.config)}
        targets = None if labels is None else read_targets(labels, self.config, images.shape[0])
        wanted = Wanted(
            loss=labels is not None, hidden_states=bool(output_hidden_states), attentions=bool(output_attentions)
        )
        output = forward.run_vit_classifier(self.module, self.variables, images, options, targets, wanted)
        output = like_the_inputs(output, pixel_values)
        return output.to_tuple() if return_dict is False else output


class EfficientNetForImageClassification(_Classifier[EfficientNetConfig, EfficientNet]):
    """An EfficientNet with its top and its classifier, plain or Lite (Tan & Le, arXiv 1905.11946)."""

    config_class: ClassVar[type] = EfficientNetConfig
    module_class: ClassVar[type] = EfficientNet

    def __call__(
        self,
        pixel_values: Arrays = None,
        labels: Arrays = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutputWithNoAttention | tuple[Any, ...]:
        """Classifies images of any size; arguments as for `ViTForImageClassification`."""
        images = read_images(pixel_values, self.config)
        targets = None if labels is None else read_targets(labels, self.config, images.shape[0])
        wanted = Wanted(loss=labels is not None, hidden_states=bool(output_hidden_states))
        output = forward.run_efficientnet_classifier(self.module, self.variables, images, targets, wanted)
        output = like_the_inputs(output, pixel_values)
        return output.to_tuple() if return_dict is False else output
