"""SI-SDR against the authors' numbers and a float64 twin; every edge in its docstring's table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsep

SCALES = [1e-30, 1e-6, 1e-3, 1.0, 1e3, 1e6, 1e30]


def twin(estimate: np.ndarray, source: np.ndarray) -> float:
    """The definition in float64, without any guard."""
    estimate = estimate.astype(np.float64) - estimate.astype(np.float64).mean()
    source = source.astype(np.float64) - source.astype(np.float64).mean()
    target = np.dot(estimate, source) / np.dot(source, source) * source
    return 10 * np.log10(np.sum(target**2) / np.sum((estimate - target) ** 2))


def signal(seed: int, samples: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


@pytest.mark.parametrize(("num_sources", "tolerance_db"), [(2, 1e-3), (3, 1e-3)])
def test_best_scores_are_the_authors(reference_dir, num_sources, tolerance_db):
    stored = np.load(reference_dir / f"si_sdr_pit_{num_sources}.npz")
    pairwise = jaxsep.pairwise_si_sdr(stored["estimates"], stored["sources"])
    _, scores = jaxsep.best_permutation(pairwise)
    np.testing.assert_allclose(scores, stored["si_sdr"], atol=tolerance_db)
    improvement = jaxsep.si_sdr_improvement(
        stored["estimates"], stored["sources"], stored["mixture"]
    )
    np.testing.assert_allclose(improvement, stored["si_sdri"], atol=tolerance_db)


@pytest.mark.parametrize(
    ("noise", "tolerance_db"),
    [(100.0, 1e-3), (1.0, 1e-3), (1e-1, 1e-3), (1e-2, 1e-3), (1e-3, 1e-3), (1e-4, 0.1)],
)
def test_equals_the_definition_in_float64(noise, tolerance_db):
    source = signal(0)
    estimate = source + noise * signal(1)
    assert jaxsep.si_sdr(estimate, source) == pytest.approx(
        twin(estimate, source), abs=tolerance_db
    )


@pytest.mark.parametrize("estimate_scale", SCALES)
@pytest.mark.parametrize("source_scale", SCALES)
def test_scale_of_either_signal_changes_nothing(estimate_scale, source_scale):
    source, estimate = signal(0), signal(0) + 0.3 * signal(1)
    scaled = jaxsep.si_sdr(np.float32(estimate_scale) * estimate, np.float32(source_scale) * source)
    assert scaled == pytest.approx(float(jaxsep.si_sdr(estimate, source)), abs=1e-3)


@pytest.mark.parametrize(("offset", "tolerance_db"), [(0.1, 1e-3), (10.0, 1e-3), (1000.0, 0.05)])
def test_constant_offset_is_removed_unless_asked_for(offset, tolerance_db):
    source, estimate = signal(0), signal(0) + 0.3 * signal(1)
    plain = float(jaxsep.si_sdr(estimate, source))
    assert jaxsep.si_sdr(estimate + np.float32(offset), source) == pytest.approx(
        plain, abs=tolerance_db
    )
    if offset >= 10:
        assert jaxsep.si_sdr(estimate + np.float32(offset), source, zero_mean=False) < plain - 10


def test_bounds_and_finite_gradients_at_the_edges():
    source, silent, constant = signal(0), np.zeros(4000, np.float32), np.full(4000, 0.1, np.float32)
    orthogonal = np.sign(np.sin(np.arange(4000) * np.pi / 2 + 0.1)).astype(np.float32)
    square = np.sign(np.sin(np.arange(4000) * np.pi + 0.1)).astype(np.float32)
    cases = {
        "perfect": (source, source, 100.0),
        "scaled and turned over": (-3 * source, source, 100.0),
        "orthogonal": (orthogonal, square, -100.0),
        "silent estimate": (silent, source, -100.0),
        "constant estimate": (constant, source, -100.0),
        "silent source": (source, silent, -100.0),
        "constant source": (source, constant, -100.0),
        "both silent": (silent, silent, -100.0),
        "both constant": (constant, 3 * constant, -100.0),
        "one sample": (source[:1], source[:1], -100.0),
    }
    for name, (estimate, of, expected) in cases.items():
        value, gradient = jax.value_and_grad(lambda e, of=of: jaxsep.si_sdr(e, of))(estimate)
        assert value == pytest.approx(expected, abs=0.01), name
        assert -100.0 <= value <= 100.0, name
        assert np.all(np.isfinite(gradient)), name
        if "silent" in name or "constant" in name:
            np.testing.assert_array_equal(gradient, 0.0, err_msg=name)


@pytest.mark.parametrize(("noise", "tolerance"), [(1.0, 1e-3), (1e-2, 1e-3)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gradient_is_that_of_the_definition(noise, scale, tolerance):
    source = signal(0, 64)
    estimate = np.float32(scale) * (source + np.float32(noise) * signal(1, 64))
    gradient = np.asarray(jax.grad(lambda e: jaxsep.si_sdr(e, source))(estimate))
    step = 1e-6 * scale * noise
    numeric = [
        (
            twin(estimate.astype(np.float64) + step * e, source)
            - twin(estimate.astype(np.float64) - step * e, source)
        )
        / (2 * step)
        for e in np.eye(64)
    ]
    assert np.linalg.norm(gradient - numeric) <= tolerance * np.linalg.norm(numeric)


@pytest.mark.parametrize(
    ("scale", "tolerance"), [(1e-30, 1e-5), (1e-6, 1e-5), (1e6, 1e-5), (1e30, 1e-5)]
)
def test_gradient_is_scaled_by_the_inverse(scale, tolerance):
    source, estimate = signal(0, 64), signal(0, 64) + signal(1, 64)
    plain, scaled = (
        jax.grad(lambda e: jaxsep.si_sdr(e, source))(np.float32(f) * estimate) for f in (1.0, scale)
    )
    np.testing.assert_allclose(
        np.asarray(scaled, np.float64) * scale, plain, atol=tolerance * np.abs(plain).max()
    )


def test_gradient_does_not_move_the_mean():
    gradient = jax.grad(lambda e: jaxsep.si_sdr(e, signal(0, 64)))(signal(1, 64) + 5)
    assert abs(np.mean(gradient)) < 1e-6 * np.abs(gradient).max()


def test_neither_value_nor_gradient_depends_on_the_other_signals():
    """Not even where one beside it is NaN: only that one's own SI-SDR is NaN."""
    estimates, sources = (
        np.stack([signal(s, 64) for s in (0, 1)]),
        np.stack([signal(s, 64) for s in (2, 3)]),
    )
    np.testing.assert_array_equal(
        jax.grad(lambda e: jaxsep.si_sdr(e, sources)[0])(estimates)[1], 0.0
    )
    alone = jax.value_and_grad(lambda e: jaxsep.si_sdr(e, sources[0]))(estimates[0])
    estimates[1, 7] = np.nan
    assert np.isnan(jaxsep.si_sdr(estimates, sources)[1])
    value, gradient = jax.value_and_grad(lambda e: jaxsep.si_sdr(e, sources)[0])(estimates)
    assert value == pytest.approx(float(alone[0]), abs=1e-5)
    np.testing.assert_allclose(gradient[0], alone[1], atol=1e-5 * np.abs(alone[1]).max())


def test_integers_are_computed_in_float32():
    source, estimate = (
        np.round(1000 * signal(0)).astype(np.int16),
        np.round(500 * signal(1)).astype(np.int16),
    )
    assert jaxsep.si_sdr(estimate, source) == pytest.approx(twin(estimate, source), abs=1e-3)


def test_pairwise_entry_is_estimate_m_against_source_n():
    estimates = np.stack([signal(s) for s in (0, 1, 2)])[None]
    sources = np.stack([signal(s) for s in (10, 11)])[None] + estimates[:, :2] * np.float32(0.5)
    pairwise = jaxsep.pairwise_si_sdr(estimates, sources)
    assert pairwise.shape == (1, 2, 3)
    for n in range(2):
        for m in range(3):
            assert pairwise[0, n, m] == pytest.approx(
                twin(estimates[0, m], sources[0, n]), abs=1e-3
            )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_input_is_computed_in_float32(dtype):
    source, estimate = signal(0), signal(0) + 0.01 * signal(1)
    half = jnp.asarray(estimate, dtype)
    assert jax.grad(lambda e: jaxsep.si_sdr(e, source))(half).dtype == dtype
    assert jaxsep.si_sdr(half, source).dtype == jnp.float32
    expected = twin(np.asarray(half.astype(jnp.float32)), source)
    assert jaxsep.si_sdr(half, source) == pytest.approx(expected, abs=1e-3)


def test_lengths_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(2, 10\) and \(2, 11\)"):
        jaxsep.si_sdr(jnp.ones((2, 10)), jnp.ones((2, 11)))
