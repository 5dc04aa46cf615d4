"""Readers of weight files, one file for each format; every one gives `Tensors`."""

from align_jax.conversion.readers.tensors import SourceError, TensorInfo, Tensors

__all__ = ["SourceError", "TensorInfo", "Tensors"]
