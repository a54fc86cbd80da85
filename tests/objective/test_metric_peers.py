"""SI-SDR, its pairs and the permutation beside other packages that compute the same."""

import fast_bss_eval
import mir_eval
import numpy as np
import pytest

import jaxsep

SAMPLES = 32000


def signals(
    num_sources: int, noise: float, seed: int = 0, scale: float = 1.0, samples: int = SAMPLES
):
    """(estimates, sources) [N, T] float32 without a mean, in different orders."""
    rng = np.random.default_rng(seed)
    sources = rng.standard_normal((num_sources, samples))
    interference = 0.3 * np.roll(sources, 1, axis=0)
    estimates = np.roll(
        sources + noise * (interference + rng.standard_normal(sources.shape)), 1, axis=0
    )
    estimates, sources = (x - x.mean(axis=1, keepdims=True) for x in (scale * estimates, sources))
    return estimates.astype(np.float32), sources.astype(np.float32)


@pytest.mark.parametrize("num_sources", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("noise", "scale", "tolerance_db"),
    [(3.0, 1.0, 1e-3), (0.3, 1e-3, 1e-3), (0.1, 1e3, 1e-3), (1e-3, 1.0, 1e-2)],
)
def test_pairs_and_best_scores_are_those_of_fast_bss_eval(num_sources, noise, scale, tolerance_db):
    """Its NumPy backend, in float64; it knows no bound, and at 60 dB ours shows."""
    estimates, sources = signals(num_sources, noise, scale=scale)
    pairwise = jaxsep.pairwise_si_sdr(estimates, sources)
    wide = estimates.astype(np.float64), sources.astype(np.float64)
    theirs = -fast_bss_eval.numpy.pairwise_si_sdr_loss(*wide, zero_mean=True)
    # Of another estimate no tolerance in dB holds: float32 inner products near 0.
    heard = theirs > -40
    np.testing.assert_allclose(np.asarray(pairwise)[heard], theirs[heard], atol=tolerance_db)
    permutation, scores = jaxsep.best_permutation(pairwise)
    their_scores, their_permutation = fast_bss_eval.numpy.si_sdr(
        wide[1], wide[0], zero_mean=True, return_perm=True
    )
    np.testing.assert_array_equal(permutation, their_permutation)
    np.testing.assert_allclose(scores, their_scores, atol=tolerance_db)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # mir_eval's own notice of what it will drop
@pytest.mark.parametrize("num_sources", [2, 3])
@pytest.mark.parametrize(("noise", "above_db"), [(1.0, 0.2), (0.1, 0.1)])
def test_sdr_of_mir_eval_is_a_little_higher_and_chooses_the_same_permutation(
    num_sources, noise, above_db
):
    """BSS Eval allows the source a filter of 512 taps, SI-SDR one tap: its SDR is never lower.

    On white noise the other taps find only what is in the error by chance, about 511/32000 of it.
    The error loses that, 0.07 dB, and the target gains it, another 0.07 dB where the two are
    equally loud.
    """
    estimates, sources = signals(num_sources, noise)
    sdr, _, _, their_permutation = mir_eval.separation.bss_eval_sources(
        sources.astype(np.float64), estimates.astype(np.float64)
    )
    permutation, scores = jaxsep.best_permutation(jaxsep.pairwise_si_sdr(estimates, sources))
    np.testing.assert_array_equal(permutation, their_permutation)
    assert np.all(sdr - scores >= -1e-3)
    assert np.all(sdr - scores <= above_db)


@pytest.mark.parametrize(("noise", "tolerance_db"), [(1.0, 1e-3), (0.1, 1e-3), (1e-2, 2e-3)])
def test_si_sdr_is_that_of_torchmetrics(noise, tolerance_db):
    """Where PyTorch happens to be installed; the tests never install it."""
    torch = pytest.importorskip(
        "torch", reason="a side by side with torchmetrics needs PyTorch, which jaxsep does not"
    )
    audio = pytest.importorskip("torchmetrics.functional.audio")
    estimates, sources = signals(3, noise)
    estimates = np.roll(estimates, -1, axis=0)
    theirs = audio.scale_invariant_signal_distortion_ratio(
        torch.from_numpy(estimates), torch.from_numpy(sources), zero_mean=True
    )
    np.testing.assert_allclose(jaxsep.si_sdr(estimates, sources), theirs.numpy(), atol=tolerance_db)
