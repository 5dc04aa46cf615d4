import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from align_jax.ops import depthwise_conv as module
from align_jax.ops.depthwise_conv import choose_forms, depthwise_conv

# EfficientNet B0 to B7: kernels 3 and 5, strides 1 and 2, feature maps of even and odd size.
GEOMETRIES = [
    pytest.param(size, stride, padding, pixels, id=f"k{size}-stride{stride}-{name}-{pixels}px")
    for size in (3, 5)
    for stride, before, name in ((1, size // 2, "same"), (2, size // 2 - 1, "align"), (2, size // 2, "symmetric"))
    for pixels in (6, 7)
    for padding in [((before, size // 2),) * 2]
]

FORWARD = {
    "grouping": module.forward_by_grouping,
    "shifts": module.forward_by_shifts,
    "shifts in memory": partial(module.forward_by_shifts, pad=module._pad_in_memory),
}
INPUT_GRADIENT = {
    "grouping": module.input_gradient_by_grouping,
    "phases": module.input_gradient_by_phases,
    "phases in memory": partial(module.input_gradient_by_phases, pad=module._pad_in_memory),
}
KERNEL_GRADIENT = {
    "grouping": module.kernel_gradient_by_grouping,
    "reductions": module.kernel_gradient_by_reductions,
    "blocks": module.kernel_gradient_by_blocks,
}


def reference(images, kernel, stride, padding):
    """The definition, computed by XLA in float32."""
    return lax.conv_general_dilated(
        images.astype(jnp.float32),
        kernel.astype(jnp.float32),
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=images.shape[3],
    )


def draw(images_shape, size, dtype=jnp.float32, seed=0):
    random = np.random.default_rng(seed)
    images = jnp.asarray(random.normal(size=images_shape), dtype)
    return images, jnp.asarray(random.normal(size=(size, size, 1, images_shape[3])), dtype)


def with_gradients(operator, images, kernel, direction_dtype=jnp.float32):
    """Output, input gradient and kernel gradient for one fixed output gradient."""

    @jax.jit
    def run(images, kernel):
        output, transpose = jax.vjp(operator, images, kernel)
        direction = jnp.cos(jnp.arange(output.size, dtype=jnp.float32)).reshape(output.shape)
        return output, *transpose(direction.astype(direction_dtype).astype(output.dtype))

    return run(images, kernel)


def assert_close(actual, expected, tolerance):
    """Equal up to `tolerance` of the largest expected value."""
    actual, expected = np.asarray(actual, np.float32), np.asarray(expected, np.float32)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(abs(expected).max(initial=0), 1e-30))


# Rounding a float32 sum once to bfloat16, of 8 significant bits, is off by 2**-8 at most; 1e-5 for the sum itself.
DTYPES = [pytest.param(jnp.float32, 1e-5, id="float32"), pytest.param(jnp.bfloat16, 2**-8 + 1e-5, id="bfloat16")]


@pytest.mark.parametrize(("size", "stride", "padding", "pixels"), GEOMETRIES)
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_output_and_gradients_equal_the_grouped_convolution(size, stride, padding, pixels, dtype, tolerance):
    images, kernel = draw((4, pixels, pixels + 2, 6), size, dtype)
    actual = with_gradients(partial(depthwise_conv, stride=stride, padding=padding), images, kernel, dtype)
    wide = images.astype(jnp.float32), kernel.astype(jnp.float32)
    expected = with_gradients(partial(reference, stride=stride, padding=padding), *wide, dtype)
    for result, wanted in zip(actual, expected, strict=True):
        assert result.dtype == dtype
        assert_close(result, wanted, tolerance)


@pytest.mark.parametrize(("size", "stride", "padding", "pixels"), GEOMETRIES)
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_every_form_gives_the_same_result_on_every_platform(size, stride, padding, pixels, dtype, tolerance):
    images, kernel = draw((2, pixels, pixels, 5), size, dtype)
    wide = images.astype(jnp.float32), kernel.astype(jnp.float32)
    output, transpose = jax.vjp(partial(reference, stride=stride, padding=padding), *wide)
    gradient = jnp.sin(output).astype(dtype)
    expected = (output, *transpose(gradient.astype(jnp.float32)))

    @jax.jit
    def run(images, kernel, gradient):
        return (
            {name: form(images, kernel, stride, padding) for name, form in FORWARD.items()},
            {name: f(gradient, kernel, stride, padding, (pixels, pixels)) for name, f in INPUT_GRADIENT.items()},
            {name: form(images, gradient, stride, padding, size) for name, form in KERNEL_GRADIENT.items()},
        )

    for results, wanted in zip(run(images, kernel, gradient), expected, strict=True):
        for result in results.values():
            assert result.dtype == dtype
            assert_close(result, wanted, tolerance)


def by_definition(images, kernel, direction, stride, padding):
    """Output and gradients in NumPy, tap by tap."""
    images, kernel = np.asarray(images, np.float64), np.asarray(kernel, np.float64)
    padded = np.pad(images, ((0, 0), *padding, (0, 0)))
    _, rows, columns, _ = direction.shape
    output, slope, kernel_gradient = np.zeros(direction.shape), np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(kernel.shape[:2]):
        window = np.s_[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        output += padded[window] * kernel[i, j]
        slope[window] += direction * kernel[i, j]
        kernel_gradient[i, j, 0] = (padded[window] * direction).sum((0, 1, 2))
    (above, _), (left, _) = padding
    return output, slope[:, above : above + images.shape[1], left : left + images.shape[2]], kernel_gradient


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])  # each shrinking step compiles
@given(data=st.data())
def test_any_shape_stride_and_padding(data):
    size, stride = data.draw(st.sampled_from([1, 2, 3, 5, 7])), data.draw(st.integers(1, 3))
    padding = tuple((data.draw(st.integers(0, size)), data.draw(st.integers(0, size))) for _ in range(2))
    height, width = (data.draw(st.integers(max(1, size - sum(sides)), 16)) for sides in padding)
    images, kernel = draw((data.draw(st.integers(1, 9)), height, width, data.draw(st.integers(1, 4))), size)
    actual = with_gradients(partial(depthwise_conv, stride=stride, padding=padding), images, kernel)
    direction = np.cos(np.arange(actual[0].size)).reshape(actual[0].shape)
    expected = by_definition(images, kernel, direction, stride, padding)
    for result, wanted in zip(actual, expected, strict=True):
        assert_close(result, wanted, 1e-5)


@pytest.mark.parametrize("rows", [1, 3, 5, 7, 12, 13, 37, 73, 145])
def test_row_blocks_cover_every_row_and_waste_few(rows):
    height = module._block_height(rows)
    assert height <= 12
    assert -rows % height <= rows // 12


def test_bfloat16_sums_are_kept_in_float32():
    # 4096 ones add up to 256 in bfloat16 arithmetic: 256 + 1 rounds back to 256.
    ones = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    _, _, kernel_gradient = with_gradients_of_sum(ones, jnp.ones((1, 1, 1, 1), jnp.bfloat16))
    assert kernel_gradient.item() == 4096


def with_gradients_of_sum(images, kernel):
    output, transpose = jax.vjp(partial(depthwise_conv, stride=1, padding=((0, 0), (0, 0))), images, kernel)
    return output, *transpose(jnp.ones_like(output))


same = partial(depthwise_conv, stride=1, padding=((1, 1), (1, 1)))


def loss(images, kernel):
    return jnp.sum(jnp.cos(same(images, kernel)))


def test_vmap_equals_a_loop():
    images = jnp.stack([draw((2, 6, 5, 4), 3, seed=seed)[0] for seed in range(3)])
    kernels = jnp.stack([draw((1, 1, 1, 4), 3, seed=seed)[1] for seed in range(3)])
    gradients = jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(images, kernels)
    for n in range(3):
        expected = jax.grad(loss, (0, 1))(images[n], kernels[n])
        for gradient, wanted in zip(gradients, expected, strict=True):
            assert_close(gradient[n], wanted, 1e-5)


def test_remat_changes_no_gradient():
    images, kernel = draw((2, 6, 5, 4), 3)
    expected = jax.jit(jax.grad(loss, (0, 1)))(images, kernel)
    for gradient, wanted in zip(jax.jit(jax.grad(jax.checkpoint(loss), (0, 1)))(images, kernel), expected, strict=True):
        assert_close(gradient, wanted, 1e-6)


def test_second_derivatives_exist():
    images, kernel = draw((2, 6, 5, 4), 3)

    def plain(images, kernel):
        return jnp.sum(jnp.cos(reference(images, kernel, 1, ((1, 1), (1, 1)))))

    def squared_slope(loss, kernel):
        return jnp.sum(jax.grad(loss, 1)(images, kernel) ** 2)

    expected = jax.grad(partial(squared_slope, plain))(kernel)
    assert_close(jax.grad(partial(squared_slope, loss))(kernel), expected, 1e-4)


def test_shard_map_sums_the_gradient_of_a_replicated_kernel():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    images, kernel = draw((16, 6, 5, 4), 3)
    sharded = jax.shard_map(jax.grad(loss, (0, 1)), mesh=mesh, in_specs=(P("data"), P()), out_specs=(P("data"), P()))
    for gradient, wanted in zip(jax.jit(sharded)(images, kernel), jax.grad(loss, (0, 1))(images, kernel), strict=True):
        assert_close(gradient, wanted, 1e-5)


def test_a_sharded_batch_is_never_gathered():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    images, kernel = draw((16, 6, 5, 4), 3)
    expected = jax.grad(loss, (0, 1))(images, kernel)
    images = jax.device_put(images, NamedSharding(mesh, P(("data", "fsdp"))))
    kernel = jax.device_put(kernel, NamedSharding(mesh, P()))
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(images, kernel).compile()
    text = compiled.as_text()
    assert "all-reduce" in text
    assert not any(other in text for other in ("all-gather", "all-to-all", "collective-permute"))
    for gradient, wanted in zip(compiled(images, kernel), expected, strict=True):
        assert_close(gradient, wanted, 1e-5)


@pytest.mark.parametrize(
    ("platform", "size", "stride", "convolutions"),
    # On TPU at stride 1 only the kernel gradient of k = 5 is a grouped convolution; at stride 2 all three are.
    [("cpu", 5, 1, 0), ("cpu", 3, 2, 0), ("tpu", 3, 1, 0), ("tpu", 5, 1, 1), ("tpu", 3, 2, 3), ("cuda", 3, 1, 3)],
)
def test_the_form_follows_the_platform_that_is_lowered_for(platform, size, stride, convolutions):
    images, kernel = draw((1, 16, 16, 8), size)

    def run(images, kernel):
        output, transpose = jax.vjp(
            partial(depthwise_conv, stride=stride, padding=((size // 2, size // 2),) * 2), images, kernel
        )
        return output, transpose(output)

    lowered = jax.jit(run).trace(images, kernel).lower(lowering_platforms=(platform,))
    assert lowered.as_text().count("stablehlo.convolution") == convolutions


def test_every_chosen_form_is_tested_here():
    def name(form):
        return (form.func, *form.keywords.items()) if isinstance(form, partial) else (form,)

    tested = [{name(form) for form in forms.values()} for forms in (FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT)]
    for platform in ("cpu", "tpu", "default"):
        for size, stride in ((3, 1), (3, 2), (5, 1), (5, 2)):
            for form, known in zip(choose_forms(platform, size, stride), tested, strict=True):
                assert name(form) in known


@pytest.mark.parametrize(
    ("images_shape", "kernel_shape", "stride", "message"),
    [
        ((1, 8, 8, 4), (3, 3, 1, 5), 1, r"kernel of shape \(3, 3, 1, 5\) does not fit .*\(1, 8, 8, 4\).*must be"),
        ((1, 8, 8, 4), (3, 3, 4, 1), 1, r"\(3, 3, 4, 1\)"),
        ((1, 8, 8, 4), (3, 5, 1, 4), 1, r"\(3, 5, 1, 4\)"),
        ((8, 8, 4), (3, 3, 1, 4), 1, r"images must be \(batch, height, width, channels\)"),
        ((1, 8, 8, 4), (3, 3, 1, 4), 0, "stride 0"),
        ((1, 8, 8, 4), (11, 11, 1, 4), 1, "11 x 11 kernel is larger than .* pad more"),
    ],
)
def test_arguments_that_do_not_fit_get_one_clear_error(images_shape, kernel_shape, stride, message):
    unchecked = inspect.unwrap(depthwise_conv)  # as users have it: without this suite's shape checker
    with pytest.raises(ValueError, match=message):
        unchecked(jnp.ones(images_shape), jnp.ones(kernel_shape), stride=stride, padding=((1, 1), (1, 1)))


def test_mixed_dtypes_get_one_clear_error():
    images, kernel = draw((1, 8, 8, 4), 3)
    with pytest.raises(ValueError, match="images are bfloat16 and the kernel is float32"):
        same(images.astype(jnp.bfloat16), kernel)
