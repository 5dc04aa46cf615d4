"""ALIGN in JAX."""
