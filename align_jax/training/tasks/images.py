"""What every task asks of its images."""

import jax
import jax.numpy as jnp

from align_jax.configuration import ConfigurationError, ImageTowerConfig
from align_jax.data.training_data import TrainingData


def check_image_size(data: TrainingData, image_size: int) -> None:
    """Refuses crops of another size than the model is built for.

    Raises:
        ConfigurationError: with both sizes.
    """
    if data.transform.crop_px != image_size:
        raise ConfigurationError(
            f"the images are cropped to {data.transform.crop_px} px but the image tower is built for {image_size} px; "
            "make data.transform.crop_px and image_size equal"
        )


def abstract_images(config: ImageTowerConfig, batch_size: int) -> jax.ShapeDtypeStruct:
    """Shape and type of the images of a batch."""
    shape = (batch_size, config.image_size, config.image_size, config.num_channels)
    return jax.ShapeDtypeStruct(shape, jnp.uint8)
