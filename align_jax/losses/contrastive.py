"""The contrastive losses of a batch of pairs: every image of the global batch against every text of it.

Both objectives, softmax (ALIGN, arXiv 2102.05918) and sigmoid (SigLIP, arXiv 2303.15343), come in four forms, which
differ in what a device holds and sends, not in the result. With N pairs on P devices, B = N / P rows each:

    form         logits held   embeddings held   how the columns come
    dense        [N N]         [N D]             all in one place; under automatic sharding XLA decides
    all_gather   [B N], twice  [N D], twice      one all-gather of each side; the gradient returns by reduce-scatter
    chunked      [B C]         [C D]             the texts in chunks of C: a slice of every device's, or some devices'
    ring         [B B]         [B D]             the texts travel from device to device

The sigmoid loss counts each pair once, so its all-gather form needs one side only. Chunked and ring compute each logit
once for both directions, and again for the gradient.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from align_jax.losses.chunks import Chunks
from align_jax.losses.gathered import sigmoid_sums, softmax_sums
from align_jax.losses.objectives import Objective, Sigmoid, Softmax
from align_jax.losses.ring import Ring
from align_jax.losses.streamed import Stream, streamed_sums

LossForm = Literal["dense", "all_gather", "chunked", "ring"]
LOSS_FORMS: tuple[LossForm, ...] = get_args(LossForm)


class ContrastiveLoss(NamedTuple):
    """The loss over every pair of the global batch, and how often the right partner scores highest."""

    loss: Float[Array, ""]
    image_to_text_accuracy: Float[Array, ""]
    text_to_image_accuracy: Float[Array, ""]


def contrastive_loss(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    temperature: Float[Array, ""],
    *,
    label_smoothing: float = 0.1,
    axis_names: tuple[str, ...] = (),
    form: LossForm = "all_gather",
    chunk_size: int | None = None,
) -> ContrastiveLoss:
    """The softmax loss: every image picks its text among all, and every text its image.

    The sum of the two directions' cross-entropies, each a mean over the batch; `transformers` reports half of it.
    Without `axis_names` the batch is what is passed. With them, the function runs inside `jax.shard_map`, each device
    holding B rows of the global batch.

    Args:
        image: unit-length float32 embeddings; row i of `image` and of `text` are a pair.
        text: unit-length float32 embeddings.
        temperature: cosines are divided by it.
        label_smoothing: share of the target spread evenly over all columns, the right one included.
        axis_names: mesh axes the batch is sharded over, major axis first.
        form: how the columns come together; "dense" takes no `axis_names`.
        chunk_size: columns that the chunked form holds at most; 1,024 or four devices' rows when absent, whichever is
            less. From 8 columns a device on, every device gives some to each chunk; below, some devices give all.

    Raises:
        ValueError: if the dense form is asked for inside `shard_map`, or a chunk has no columns.

    Example:
        Two pairs at right angles and temperature 1: a row's logits are (1, 0), its cross-entropy is
        log(e + 1) - 1 = 0.3133, and both directions together cost 0.6265.

        >>> eye = jnp.eye(2)
        >>> float(contrastive_loss(eye, eye, jnp.float32(1.0), label_smoothing=0.0).loss)  # doctest: +ELLIPSIS
        0.6265...
    """
    _check_form(form, axis_names)
    if form in ("dense", "all_gather"):
        sums = softmax_sums(image, text, temperature, label_smoothing, axis_names)
    else:
        stream = _stream(form, Softmax(label_smoothing), axis_names, chunk_size)
        sums = streamed_sums(stream, image, text, temperature, jnp.float32(0.0))
    return _means(sums, image.shape[0], axis_names)


def sigmoid_loss(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    temperature: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    axis_names: tuple[str, ...] = (),
    form: LossForm = "all_gather",
    chunk_size: int | None = None,
) -> ContrastiveLoss:
    """The sigmoid loss: each pair of an image and a text is judged by itself, as belonging together or not.

    `-log sigmoid(z * (cosine / temperature + bias))` with z = 1 for partners and -1 for all others, summed over all
    pairs and divided by the batch.

    Args:
        image: as for `contrastive_loss`.
        text: as for `contrastive_loss`.
        temperature: as for `contrastive_loss`; the paper starts at 0.1.
        bias: added to every logit; the paper starts at -10, because almost all pairs are not partners.
        axis_names: as for `contrastive_loss`.
        form: as for `contrastive_loss`.
        chunk_size: as for `contrastive_loss`.

    Raises:
        ValueError: as for `contrastive_loss`.

    References:
        Zhai et al., Sigmoid Loss for Language Image Pre-Training, arXiv 2303.15343, algorithm 1.

    Example:
        Two pairs at right angles, temperature 1, bias 0: partners have logit 1 and cost log(1 + e^-1) = 0.3133, the
        others have logit 0 and cost log 2 = 0.6931; a row has one of each.

        >>> eye = jnp.eye(2)
        >>> float(sigmoid_loss(eye, eye, jnp.float32(1.0), jnp.float32(0.0)).loss)  # doctest: +ELLIPSIS
        1.0064...
    """
    _check_form(form, axis_names)
    if form in ("dense", "all_gather"):
        sums = sigmoid_sums(image, text, temperature, bias, axis_names)
    else:
        stream = _stream(form, Sigmoid(), axis_names, chunk_size)
        sums = streamed_sums(stream, image, text, temperature, bias)
    return _means(sums, image.shape[0], axis_names)


def _check_form(form: LossForm, axis_names: tuple[str, ...]) -> None:
    if form not in LOSS_FORMS:
        raise ValueError(f"form {form!r} is not one of {', '.join(LOSS_FORMS)}")
    if form == "dense" and axis_names:
        raise ValueError(
            f"the dense form needs the whole batch in one place, not rows over the axes {', '.join(axis_names)}; "
            "use all_gather, chunked or ring inside shard_map"
        )


def _stream(form: LossForm, objective: Objective, axis_names: tuple[str, ...], chunk_size: int | None) -> Stream:
    return Ring(objective, axis_names) if form == "ring" else Chunks(objective, axis_names, chunk_size)


def _means(sums: Float[Array, "3"], rows: int, axis_names: tuple[str, ...]) -> ContrastiveLoss:
    """Sums of loss and hits on this device, as means over the global batch."""
    if axis_names:
        sums = jax.lax.psum(sums, axis_names)
        rows *= jax.lax.axis_size(axis_names)
    loss, image_to_text_accuracy, text_to_image_accuracy = sums / rows
    return ContrastiveLoss(loss, image_to_text_accuracy, text_to_image_accuracy)
