"""Every test runs on eight CPU devices with strict promotion, and with the shape annotations checked."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Emitters that take long to compile; `pytest_runtest_protocol` below says why that matters.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_cpu_use_fusion_emitters=false"
if os.environ.get("ALIGN_JAX_NETWORK") != "1":
    os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import jax
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

import tests.shape_checks  # noqa: F401  (the hook finds the checker by its name)

# Never uninstalled: modules of align_jax are imported lazily, some in the middle of a test.
install_import_hook("align_jax", "tests.shape_checks.checked")

# A busy machine is no error.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

jax.config.update("jax_default_matmul_precision", "float32")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="session")
def _programs_compile_once(tmp_path_factory):
    """Many tests train the same small experiment; its step is compiled by the first of them, in whatever process."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the parent is of all workers of this session
        folder = folder.parent
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_compilation_cache_max_size", 4 * 2**30)  # with a limit, entries are written under a lock


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Compiling takes far longer than running what is compiled here: it tries hard only where a test is so marked."""
    jax.config.update("jax_disable_most_optimizations", item.get_closest_marker("optimized") is None)
    return (yield)


def pytest_collection_modifyitems(items):
    """The longest come first, so that no worker has one left when the other is through."""
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)
