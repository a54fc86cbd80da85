"""Each primitive against its plain form: values, and gradients against automatic differentiation of the plain form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxsep.models.kernels import backend, framing
from jaxsep.models.kernels import conv as ops
from jaxsep.models.kernels import norm as norms

# Odd and even, below and above the tiles in which the CPU code sums over time, with and without a rest.
SHAPES = [(1, 1, 3), (2, 7, 4), (2, 257, 5)]


def plain_product(x, kernel):
    return jnp.einsum("bfi,io->bfo", x, kernel)


def plain_depthwise(stride):
    def depthwise(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel[:, None],
            (stride,),
            [(2, 2)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=x.shape[-1],
        )

    return depthwise


def plain_branch(stride):
    """Both uses of x in one array, so that the gradient of one shows where that of the other lies."""
    return lambda x, kernel: jnp.concatenate(
        [plain_depthwise(stride)(x, kernel), jnp.sin(x)], axis=1
    )


def branch(stride):
    def both(x, kernel):
        y, again = ops.depthwise_branch(x, kernel, stride)
        return jnp.concatenate([y, jnp.sin(again)], axis=1)

    return both


def plain_norm(x, offset, scale, bias):
    x = x + offset[None, None]
    mean = x.mean((1, 2), keepdims=True)
    variance = x.var((1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-8) * scale[None, None] + bias[None, None]


def plain_prelu(x, slope):
    return jnp.where(x > 0, x, x * slope[None, None])


def plain_norm_prelu(x, offset, scale, bias, slope):
    return plain_prelu(plain_norm(x, offset, scale, bias), slope)


# name: ours, plain form, shapes of the other arguments beside x [b,f,c], tolerance (norm of difference over norm)
CASES = {
    "product, wider": (ops.product, plain_product, lambda b, f, c: [(c, c + 2)], 1e-4),
    "product, narrower": (ops.product, plain_product, lambda b, f, c: [(c, max(1, c - 2))], 1e-4),
    "depthwise, stride 1": (
        lambda *args: ops.depthwise_conv(*args, 1),
        plain_depthwise(1),
        lambda b, f, c: [(5, c)],
        1e-4,
    ),
    "depthwise, stride 2": (
        lambda *args: ops.depthwise_conv(*args, 2),
        plain_depthwise(2),
        lambda b, f, c: [(5, c)],
        1e-4,
    ),
    "branch, stride 1": (branch(1), plain_branch(1), lambda b, f, c: [(5, c)], 1e-4),
    "branch, stride 2": (branch(2), plain_branch(2), lambda b, f, c: [(5, c)], 1e-4),
    "global norm": (norms.global_norm, plain_norm, lambda b, f, c: [(c,)] * 3, 1e-4),
    "prelu per channel": (norms.prelu, plain_prelu, lambda b, f, c: [(c,)], 1e-4),
    "prelu scalar": (norms.prelu, plain_prelu, lambda b, f, c: [(1,)], 1e-4),
    "norm and prelu per channel": (
        norms.norm_prelu,
        plain_norm_prelu,
        lambda b, f, c: [(c,)] * 4,
        1e-4,
    ),
    "norm and prelu scalar": (
        norms.norm_prelu,
        plain_norm_prelu,
        lambda b, f, c: [(c,), (c,), (c,), (1,)],
        1e-4,
    ),
    "add upsampled": (
        lambda coarse, fine: ops.add_upsampled(fine, coarse),
        lambda coarse, fine: fine + jnp.repeat(coarse, 2, axis=1),
        lambda b, f, c: [(b, 2 * f, c)],
        1e-4,
    ),
}


def draw(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def assert_close(found, wanted, tolerance):
    """Norm of the difference over the norm, and over 1e-4 where the wanted value is zero but for rounding."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= tolerance * max(
        np.linalg.norm(wanted), 1e-4 * np.sqrt(wanted.size)
    )


def value_and_gradients(function, arguments, probe):
    value, pull = jax.vjp(function, *arguments)
    return value, *pull(probe)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_matches_automatic_differentiation(name, shape):
    ours, plain, parameters, tolerance = CASES[name]
    arguments = [
        draw(shape, 0),
        *(draw(size, seed) for seed, size in enumerate(parameters(*shape), 1)),
    ]
    probe = draw(jax.eval_shape(plain, *arguments).shape, 9)
    found = jax.jit(lambda args, probe: value_and_gradients(ours, args, probe))(arguments, probe)
    wanted = jax.jit(lambda args, probe: value_and_gradients(plain, args, probe))(arguments, probe)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, tolerance)


@pytest.mark.parametrize("name", CASES)
def test_vmap(name):
    """A batch of batches, with parameters of their own: the same as one after the other."""
    ours, plain, parameters, tolerance = CASES[name]
    arguments = [
        draw((2, 2, 70, 3), 0),
        *(draw((2, *size), seed) for seed, size in enumerate(parameters(2, 70, 3), 1)),
    ]
    probe = draw((2, *jax.eval_shape(plain, *[argument[0] for argument in arguments]).shape), 9)
    mapped = jax.vmap(lambda args, probe: value_and_gradients(ours, args, probe))
    one = jax.jit(lambda args, probe: value_and_gradients(plain, args, probe))
    wanted = [
        one([argument[example] for argument in arguments], probe[example]) for example in (0, 1)
    ]
    for index, value in enumerate(jax.jit(mapped)(arguments, probe)):
        for example in (0, 1):
            assert_close(value[example], wanted[example][index], tolerance)


@pytest.mark.parametrize(
    ("batch", "frames", "stride", "tolerance"),
    [(2, 257, 1, 1e-5), (1, 301, 2, 1e-5), (4, 3, 2, 1e-5)],
)
def test_sums_of_other_backends(batch, frames, stride, tolerance):
    """The formulation of other backends equals the CPU's, here where both can run."""
    x, g = draw((batch, frames, 5), 0), draw((batch, -(-frames // stride), 5), 1)
    assert_close(
        ops._kernel_gradient_tiled(x, g, stride),
        ops._kernel_gradient_plain(x, g, stride),
        tolerance,
    )

    def products(g, h):
        return g, g * h

    tiled, plain = (run(products, g, 2 * g) for run in (backend._sums_tiled, backend._sums_plain))
    for one, other in zip(tiled, plain, strict=True):
        assert_close(one, other, tolerance)


@pytest.mark.parametrize("x_mean", [0, 3000])
@pytest.mark.parametrize("offset_mean", [0, 3000])
def test_norm_far_from_zero(x_mean, offset_mean):
    """Mean 3000 times the deviation: E[x²] − E[x]² in float32 is wrong in the first digit."""
    rng = np.random.default_rng(0)
    x = np.asarray(rng.standard_normal((2, 500, 8)) + x_mean, np.float32)
    offset = np.asarray(rng.standard_normal(8) + offset_mean, np.float32)
    ones, zeros = jnp.ones(8), jnp.zeros(8)
    wide = x.astype(np.float64) + offset.astype(np.float64)
    wanted = (wide - wide.mean((1, 2), keepdims=True)) / wide.std((1, 2), keepdims=True)
    assert_close(norms.global_norm(jnp.asarray(x), jnp.asarray(offset), ones, zeros), wanted, 1e-3)


def test_norm_of_a_late_start():
    """Silence, then a signal: the first frame's mean is far from that of the rest, and the sums about it still do."""
    x = np.zeros((1, 1600, 4), np.float32)
    x[:, 1:] = 1000 + np.random.default_rng(0).standard_normal((1, 1599, 4))
    wide = x.astype(np.float64)
    wanted = (wide - wide.mean()) / wide.std()
    assert_close(
        norms.global_norm(jnp.asarray(x), jnp.zeros(4), jnp.ones(4), jnp.zeros(4)), wanted, 1e-3
    )


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_norm_of_a_constant(value):
    x, ones, bias = jnp.full((1, 8, 4), value), jnp.ones(4), jnp.arange(4.0)
    y, *gradients = value_and_gradients(
        norms.global_norm, (x, ones, ones, bias), draw((1, 8, 4), 0)
    )
    np.testing.assert_array_equal(y, jnp.broadcast_to(bias[None, None], y.shape))
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(
    ("taps", "samples", "tolerance"), [(21, 70, 1e-5), (3, 5, 1e-5), (2, 4, 1e-5), (8, 12, 1e-5)]
)
def test_encode_is_a_strided_convolution(taps, samples, tolerance):
    hop = taps // 2
    waveform, kernel, bias = draw((2, samples), 0), draw((taps, 6), 1), draw((6,), 2)
    wanted = lax.conv_general_dilated(
        waveform[:, :, None],
        kernel[:, None],
        (hop,),
        [(hop, hop)],
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    assert_close(framing.encode(waveform, kernel), wanted, tolerance)
    assert_close(framing.encode(waveform, kernel, bias), wanted + bias[None, None], tolerance)


@pytest.mark.parametrize(
    ("taps", "count", "tolerance"),
    [(21, 7, 1e-6), (41, 3, 1e-6), (3, 5, 1e-6), (2, 4, 1e-6), (8, 3, 1e-6)],
)
def test_overlap_add(taps, count, tolerance):
    hop = taps // 2
    frames = np.asarray(draw((2, count, taps), 0))
    wanted = np.zeros((2, (count + 2) * hop + taps))
    for frame in range(count):
        wanted[:, frame * hop : frame * hop + taps] += frames[:, frame]
    # Transposed convolution: (F − 1)·S − 2·S + L + (S − 1) samples, the padding S cut at the start.
    samples = (count - 1) * hop - 2 * hop + taps + hop - 1
    assert_close(
        framing.overlap_add(jnp.asarray(frames)), wanted[:, hop : hop + samples], tolerance
    )


@pytest.mark.parametrize(
    ("basis", "sources", "tolerance"), [(2, 1, 1e-5), (6, 2, 1e-5), (32, 3, 1e-5)]
)
def test_toeplitz_is_a_convolution_along_the_bases(basis, sources, tolerance):
    x, kernel, probe = (
        draw((5, basis), 0),
        draw((sources, basis + 1), 1),
        draw((5, sources, basis), 2),
    )

    def plain(kernel):
        return lax.conv_general_dilated(
            x[:, None], kernel[:, None], (1,), [(basis - basis // 2,) * 2]
        )

    def ours(kernel):
        return jnp.einsum("xk,kni->xni", x, framing.basis_toeplitz(kernel))

    found, wanted = (
        jax.jit(lambda k, run=run: value_and_gradients(run, [k], probe))(kernel)
        for run in (ours, plain)
    )
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, tolerance)


@pytest.mark.parametrize(("sources", "tolerance"), [(2, 1e-5), (3, 1e-5), (8, 1e-5)])
def test_softmax_masked(sources, tolerance):
    logits, encoded, probe = (
        draw((2, 7, sources, 5), 0) * 30,
        draw((2, 7, 5), 1),
        draw((2, 7, sources, 5), 2),
    )

    def plain(logits, encoded):
        return jax.nn.softmax(logits, axis=2) * encoded[:, :, None]

    for one, other in zip(
        jax.jit(lambda *args: value_and_gradients(framing.softmax_masked, args, probe))(
            logits, encoded
        ),
        value_and_gradients(plain, [logits, encoded], probe),
        strict=True,
    ):
        assert_close(one, other, tolerance)
