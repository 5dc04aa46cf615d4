"""The page of `align-jax demo`; needs the extra `demo` (Gradio)."""
