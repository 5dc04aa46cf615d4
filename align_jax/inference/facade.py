"""`AlignModel`, `AlignTextModel` and `AlignVisionModel`: the classes of `transformers`, computed by JAX.

Code that was written for the PyTorch models runs after its import line is changed: calls, layouts (channels first) and
outputs are those of `transformers` 4.37, and torch tensors in give torch tensors out. The Linen modules underneath
(`align_jax.models`, channels last) are the ones to train or to build on:

    model = AlignModel.from_pretrained("kakaobrain/align-base")
    outputs = model(**processor(text=["a cat", "a dog"], images=image, return_tensors="np"))
    probabilities = jax.nn.softmax(outputs.logits_per_image, axis=1)
"""

from typing import Any, ClassVar

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig
from align_jax.inference import forward
from align_jax.inference.forward import Wanted
from align_jax.inference.model_inputs import check_pairs, read_images, read_texts
from align_jax.inference.outputs import (
    AlignOutput,
    BaseModelOutputWithPoolingAndCrossAttentions,
    ModelOutput,
)
from align_jax.inference.pretrained import PretrainedModel
from align_jax.inference.torch_tensors import like_the_inputs
from align_jax.models.align import Align
from align_jax.models.bert import Bert
from align_jax.models.efficientnet import EfficientNet

Arrays = Any
"""NumPy, JAX or torch, or nested lists of numbers."""


class AlignModel(PretrainedModel[AlignConfig, Align]):
    """Both towers (Jia et al., arXiv 2102.05918)."""

    config_class: ClassVar[type] = AlignConfig
    module_class: ClassVar[type] = Align

    def __call__(
        self,
        input_ids: Arrays = None,
        pixel_values: Arrays = None,
        attention_mask: Arrays = None,
        token_type_ids: Arrays = None,
        position_ids: Arrays = None,
        head_mask: Arrays = None,
        inputs_embeds: Arrays = None,
        return_loss: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> AlignOutput | tuple[Any, ...]:
        """Compares every image with every text.

        Args:
            input_ids: integers [texts T].
            pixel_values: floating-point [images 3 H W] in [-1, 1].
            attention_mask: [texts T], 1 on tokens and 0 on padding; all tokens when absent.
            token_type_ids: integers [texts T]; all 0 when absent.
            position_ids: integers [texts T]; 0, 1, … when absent.
            head_mask: [heads] or [layers heads], factors of the text tower's attention heads.
            inputs_embeds: floating-point [texts T F], in place of `input_ids`.
            return_loss: the loss, for as many images as texts, each image beside its text. It has no gradient for
                torch: train with `align-jax train`, or differentiate `module.apply`.
            output_attentions: the text tower's attention.
            output_hidden_states: what comes out of every layer and block.
            return_dict: False gives `to_tuple()` of the output.

        Raises:
            InputError: if an input is missing, does not fit the model or the others, or holds values that it cannot.
        """
        images = read_images(pixel_values, self.config.vision_config)
        texts = read_texts(
            self.config.text_config, input_ids=input_ids, attention_mask=attention_mask,
            token_type_ids=token_type_ids, position_ids=position_ids, head_mask=head_mask, inputs_embeds=inputs_embeds,
        )  # fmt: skip
        if return_loss:
            check_pairs(images, texts)
        wanted = Wanted(
            loss=bool(return_loss), hidden_states=bool(output_hidden_states), attentions=bool(output_attentions)
        )
        output = forward.run_align(self.module, self.variables, images, texts, wanted)
        output = like_the_inputs(output, input_ids, inputs_embeds, pixel_values)
        return output.to_tuple() if return_dict is False else output

    def get_text_features(
        self,
        input_ids: Arrays = None,
        attention_mask: Arrays = None,
        token_type_ids: Arrays = None,
        position_ids: Arrays = None,
        head_mask: Arrays = None,
        inputs_embeds: Arrays = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Embeddings [texts D] that are not normalised, an array as in `transformers` 4.

        Takes what `__call__` takes for texts; the last three have no influence on an array.
        """
        del output_attentions, output_hidden_states, return_dict
        texts = read_texts(
            self.config.text_config, input_ids=input_ids, attention_mask=attention_mask,
            token_type_ids=token_type_ids, position_ids=position_ids, head_mask=head_mask, inputs_embeds=inputs_embeds,
        )  # fmt: skip
        return like_the_inputs(forward.embed_texts(self.module, self.variables, texts), input_ids, inputs_embeds)

    def get_image_features(
        self, pixel_values: Arrays = None, output_hidden_states: bool | None = None, return_dict: bool | None = None
    ) -> Any:
        """Embeddings [images D] that are not normalised, an array as in `transformers` 4.

        Takes what `__call__` takes for images; the last two have no influence on an array.
        """
        del output_hidden_states, return_dict
        images = read_images(pixel_values, self.config.vision_config)
        return like_the_inputs(forward.embed_images(self.module, self.variables, images), pixel_values)


class AlignTextModel(PretrainedModel[AlignTextConfig, Bert]):
    """The text tower alone: BERT. Loads ALIGN models, text towers and BERT models.

    Args:
        config: of the tower.
        add_pooling_layer: BERT's layer on the first token; without it `pooler_output` is None, and its weights stay
            unused.
        seed: of random weights.
        dtype: see `PretrainedModel`.
        variables: see `PretrainedModel`.
    """

    config_class: ClassVar[type] = AlignTextConfig
    module_class: ClassVar[type] = Bert

    def __init__(
        self,
        config: AlignTextConfig,
        add_pooling_layer: bool = True,
        seed: int = 0,
        *,
        dtype: Any = "float32",
        variables: dict[str, Any] | None = None,
    ):
        super().__init__(config, seed, dtype=dtype, variables=variables)
        self.add_pooling_layer = add_pooling_layer

    def __call__(
        self,
        input_ids: Arrays = None,
        attention_mask: Arrays = None,
        token_type_ids: Arrays = None,
        position_ids: Arrays = None,
        head_mask: Arrays = None,
        inputs_embeds: Arrays = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPoolingAndCrossAttentions | tuple[Any, ...]:
        """Encodes texts; arguments as for `AlignModel`."""
        texts = read_texts(
            self.config, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
            position_ids=position_ids, head_mask=head_mask, inputs_embeds=inputs_embeds,
        )  # fmt: skip
        wanted = Wanted(
            pooler=self.add_pooling_layer,
            hidden_states=bool(output_hidden_states),
            attentions=bool(output_attentions),
        )
        output = forward.run_text_tower(self.module, self.variables, texts, wanted)
        output = like_the_inputs(output, input_ids, inputs_embeds)
        if return_dict is not False:
            return output
        # The pooler keeps its place in the tuple even where there is none.
        return output.last_hidden_state, output.pooler_output, *output.to_tuple()[1 + self.add_pooling_layer :]


class AlignVisionModel(PretrainedModel[AlignVisionConfig, EfficientNet]):
    """The image tower alone: EfficientNet. Loads ALIGN models and image towers."""

    config_class: ClassVar[type] = AlignVisionConfig
    module_class: ClassVar[type] = EfficientNet

    def __call__(
        self, pixel_values: Arrays = None, output_hidden_states: bool | None = None, return_dict: bool | None = None
    ) -> ModelOutput | tuple[Any, ...]:
        """Encodes images; arguments as for `AlignModel`."""
        images = read_images(pixel_values, self.config)
        wanted = Wanted(hidden_states=bool(output_hidden_states))
        output = forward.run_image_tower(self.module, self.variables, images, wanted)
        output = like_the_inputs(output, pixel_values)
        return output.to_tuple() if return_dict is False else output
