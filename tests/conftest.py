"""Every test runs on eight CPU devices with strict promotion, and with the shape annotations checked."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
if os.environ.get("ALIGN_JAX_NETWORK") != "1":
    os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import jax
import pytest
from jaxtyping import install_import_hook

import tests.shape_checks  # noqa: F401  (the hook finds the checker by its name)

# Never uninstalled: modules of align_jax are imported lazily, some in the middle of a test.
install_import_hook("align_jax", "tests.shape_checks.checked")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="session")
def _programs_compile_once(tmp_path_factory):
    """Many tests train the same small experiment; its step is compiled by the first of them."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(autouse=True)
def _matrix_products_in_full_precision():
    with jax.default_matmul_precision("float32"):
        yield
