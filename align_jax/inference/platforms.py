"""What exported programs run on; loads nothing, so that the help of the command answers at once."""

PLATFORMS = ("cpu", "cuda", "tpu")
