"""Each kernel against its plain form: values, and gradients against automatic differentiation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import plain_kernels as reference
import pytest

from jaxsep.models.kernels import backend, conv, framing, masks, norm

# Below and above the tiles in which the CPU code sums over time, with and without a rest.
SHAPES = [(1, 1, 3), (2, 7, 4), (2, 257, 5)]


def depthwise(module, stride):
    return lambda x, kernel: module.depthwise_conv(x, kernel, stride)


def branch(module, stride):
    """Both uses of x in one array, so that the gradient of one shows where the other lies."""

    def both(x, kernel):
        y, again = module.depthwise_branch(x, kernel, stride)
        return jnp.concatenate([y, jnp.sin(again)], axis=1)

    return both


def swapped(module):
    return lambda coarse, fine: module.add_upsampled(fine, coarse)


# name: kernel and plain form, shapes of the other arguments beside x [b,f,c]
CASES = {
    "product, wider": (conv.product, reference.product, lambda b, f, c: [(c, c + 2)]),
    "product, narrower": (conv.product, reference.product, lambda b, f, c: [(c, max(1, c - 2))]),
    **{
        f"{use.__name__}, stride {n}": (use(conv, n), use(reference, n), lambda b, f, c: [(5, c)])
        for use in (depthwise, branch)
        for n in (1, 2)
    },
    "global norm": (norm.global_norm, reference.global_norm, lambda b, f, c: [(c,)] * 3),
    "prelu per channel": (norm.prelu, reference.prelu, lambda b, f, c: [(c,)]),
    "prelu scalar": (norm.prelu, reference.prelu, lambda b, f, c: [(1,)]),
    **{
        f"norm and prelu, {slopes}": (
            norm.global_norm,
            reference.global_norm,
            lambda b, f, c, slopes=slopes: [(c,)] * 3 + [(slopes or c,)],
        )
        for slopes in (0, 1)
    },
    "add upsampled": (
        swapped(conv),
        swapped(reference),
        lambda b, f, c: [(b, 2 * f, c)],
    ),
}


def draw(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def assert_close(actual, wanted, tolerance):
    """Norm of the difference over the norm, and over 1e-4 where wanted is zero but for rounding."""
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert actual.shape == wanted.shape
    assert np.linalg.norm(actual - wanted) <= tolerance * max(
        np.linalg.norm(wanted), 1e-4 * np.sqrt(wanted.size)
    )


def value_and_gradients(function, arguments, probe):
    value, pull = jax.vjp(function, *arguments)
    return value, *pull(probe)


@pytest.mark.parametrize("tolerance", [1e-4])
@pytest.mark.parametrize("name", CASES)
def test_matches_automatic_differentiation(name, tolerance):
    """At all shapes, and mapped over a batch of batches with parameters of their own."""
    kernel, plain, parameters = CASES[name]
    cases = []
    for shape in SHAPES:
        sizes = [shape, *parameters(*shape)]
        arguments = [draw(size, seed) for seed, size in enumerate(sizes)]
        cases.append((arguments, draw(jax.eval_shape(plain, *arguments).shape, 9)))
    sizes = [(2, 70, 3), *parameters(2, 70, 3)]
    mapped = [draw((2, *size), seed) for seed, size in enumerate(sizes)]
    one = jax.eval_shape(plain, *[argument[0] for argument in mapped])
    mapped = (mapped, draw((2, *one.shape), 9))

    @partial(jax.jit, static_argnums=0)
    def run(function, cases, mapped):
        each = partial(value_and_gradients, function)
        return [each(*case) for case in cases], jax.vmap(each)(*mapped)

    actual, wanted = run(kernel, cases, mapped), run(plain, cases, mapped)
    for value, right in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        assert_close(value, right, tolerance)


@pytest.mark.parametrize("frames", [257, 302, 5])
def test_sums_of_other_backends(monkeypatch, frames):
    """The formulation of other backends equals the CPU's, here where both can run."""
    g, x = draw((2, frames, 5), 1), draw((2, 2 * frames, 5), 0)

    def run():
        sums = backend.sums_over_time(lambda a, b: (a, a * b), g, 2 * g)
        return *sums, *(conv._depthwise_kernel_gradient(x[:, : n * frames], g, n) for n in (1, 2))

    tiled = run()
    for module in (backend, conv):
        monkeypatch.setattr(module, "on_cpu", lambda: False)
    for actual, wanted in zip(tiled, run(), strict=True):
        assert_close(actual, wanted, 1e-5)


@pytest.mark.parametrize(
    ("x_mean", "offset_mean", "start"),
    [(3000, 0, 3000), (0, 3000, 0), (3000, 3000, 3000), (1000, 0, 0)],
)
def test_norm_far_from_zero(x_mean, offset_mean, start):
    """E[x²] − E[x]² in float32 is wrong in the first digit. Also where the first frame, about whose
    mean the sums are taken, is far from all others."""
    rng = np.random.default_rng(0)
    x = np.asarray(rng.standard_normal((2, 1600, 8)) + x_mean, np.float32)
    x[:, 0] += start - x_mean
    offset = np.asarray(rng.standard_normal(8) + offset_mean, np.float32)
    wide = x.astype(np.float64) + offset.astype(np.float64)
    wanted = (wide - wide.mean((1, 2), keepdims=True)) / wide.std((1, 2), keepdims=True)
    ones, zeros = jnp.ones(8), jnp.zeros(8)
    assert_close(norm.global_norm(jnp.asarray(x), jnp.asarray(offset), ones, zeros), wanted, 1e-3)


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_norm_of_a_constant(value):
    x, ones, bias = jnp.full((1, 8, 4), value), jnp.ones(4), jnp.arange(4.0)
    y, *gradients = value_and_gradients(norm.global_norm, (x, ones, ones, bias), draw((1, 8, 4), 0))
    np.testing.assert_array_equal(y, jnp.broadcast_to(bias[None, None], y.shape))
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(
    ("taps", "samples", "tolerance"), [(21, 70, 1e-5), (3, 5, 1e-5), (2, 4, 1e-5), (8, 12, 1e-5)]
)
def test_encode_is_a_strided_convolution(taps, samples, tolerance):
    waveform, kernel = draw((2, samples), 0), draw((taps, 6), 1)
    wanted = reference.encode(waveform, kernel)
    assert_close(framing.encode(waveform, kernel), wanted, tolerance)


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
    x, kernel = draw((5, basis), 0), draw((sources, basis + 1), 1)
    probe = draw((5, sources, basis), 2)

    def plain(kernel):
        padding = (basis - basis // 2,) * 2
        return jax.lax.conv_general_dilated(x[:, None], kernel[:, None], (1,), [padding])

    def as_matrix(kernel):
        return jnp.einsum("xk,kni->xni", x, masks.basis_toeplitz(kernel))

    actual, wanted = (
        jax.jit(lambda k, run=run: value_and_gradients(run, [k], probe))(kernel)
        for run in (as_matrix, plain)
    )
    for value, right in zip(actual, wanted, strict=True):
        assert_close(value, right, tolerance)


@pytest.mark.parametrize(("sources", "tolerance"), [(2, 1e-5), (3, 1e-5), (8, 1e-5)])
def test_softmax_masked(sources, tolerance):
    logits, encoded = draw((2, 7, sources, 5), 0) * 30, draw((2, 7, 5), 1)
    probe = draw((2, 7, sources, 5), 2)
    actual, wanted = (
        jax.jit(lambda *args, run=run: value_and_gradients(run, args, probe))(logits, encoded)
        for run in (masks.softmax_masked, reference.softmax_masked)
    )
    for value, right in zip(actual, wanted, strict=True):
        assert_close(value, right, tolerance)
