"""Long signals through short chunks: nothing lost, nothing padded, one order, one level.

Networks are plain functions here.
"""

import numpy as np
import pytest

from jaxsep.inference.chunks import (
    MixtureFit,
    Plan,
    envelopes,
    estimate,
    make_plan,
    mixture_consistent,
    ordered,
    separate_blocks,
)

PLAN = Plan(length=1000, overlap=200, dropped=50)
RNG = np.random.default_rng(0)


def split(signal: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """[K,T] in pieces of many lengths, empty ones too."""
    cuts = np.sort(
        np.random.default_rng(seed).integers(0, signal.shape[1] + 1, 1 + signal.shape[1] // 300)
    )
    return np.split(signal, cuts, axis=1)


def separated(signal: np.ndarray, network, plan: Plan = PLAN) -> np.ndarray:
    """[N,T] of a signal [T]."""
    return np.concatenate(list(separate_blocks(split(signal[None]), network, plan)), axis=-1)[0]


def shares(x):
    return np.stack([0.7 * x, 0.3 * x])


def periodic(samples: int) -> np.ndarray:
    """Zero mean over every 50 samples, wherever they start."""
    period = np.random.default_rng(1).standard_normal(50)
    return np.resize((period - period.mean()).astype(np.float32), samples)


# One sample to several chunks: around C = 1000 and the ends 1800, 2600, … of chunks C − V apart.
@pytest.mark.parametrize(
    "samples", [1, 2, 50, 999, 1000, 1001, 1799, 1800, 1801, 2600, 2601, 3399, 5003]
)
def test_every_sample_comes_out_once(samples):
    lengths = []

    def network(x):
        lengths.append(len(x))
        return shares(x)

    signal = periodic(samples)
    found = separated(signal, network)
    assert found.shape == (2, samples)
    assert set(lengths) == {min(samples, 1000)}, "one shape, and no padding"
    assert len(lengths) == max(1, -(-(samples - 200) // 800))
    if samples >= 50:
        expected = signal if samples > 1000 else signal - signal.mean()
        np.testing.assert_allclose(found, shares(expected), atol=1e-5)


def test_a_plan_for_the_whole_takes_the_whole():
    lengths = []
    network = lambda x: lengths.append(len(x)) or shares(x)  # noqa: E731
    separated(periodic(5003), network, make_plan(8000, np.inf, 1.0))
    assert lengths == [5003]


def test_edges_of_chunks_do_not_come_out():
    def network(x):
        y = shares(x)
        y[:, : PLAN.dropped] = 10.0
        y[:, -PLAN.dropped :] = -10.0
        return y

    inner = separated(periodic(4200), network)[:, PLAN.dropped : -PLAN.dropped]
    assert np.abs(inner).max() < 5, "only the recording's own ends have no neighbour"


def test_what_is_held_does_not_grow():
    taken = given = 0

    def blocks():
        nonlocal taken
        for _ in range(200):
            assert taken - given <= 2 * PLAN.length
            taken += 100
            yield periodic(100)[None]

    for block in separate_blocks(blocks(), shares, PLAN):
        given += block.shape[-1]
    assert given == taken == 20_000


def tones(samples: int) -> np.ndarray:
    """Two sources [2,T] that a filter can tell apart."""
    t = np.arange(samples)
    low = np.sin(0.05 * t) * (1.2 + np.sin(0.0031 * t))
    return np.stack([low, 0.5 * np.sin(1.3 * t + np.sin(0.002 * t))]).astype(np.float32)


def filters(x: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(x)
    edge = len(spectrum) // 8
    low = np.fft.irfft(np.where(np.arange(len(spectrum)) < edge, spectrum, 0), len(x))
    return np.stack([low, x - low]).astype(np.float32)


def correlation(a, b):
    return float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def test_sources_keep_their_order_level_and_sign():
    """The network's order changes with every chunk; its outputs have any level and sign."""
    swaps = iter([0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1])

    def network(x):
        return filters(x)[:: -1 if next(swaps) else 1] * np.array([[-2.0], [0.4]], np.float32)

    sources = tones(8000)
    found = separated(sources.sum(0), network)
    for source, estimated in zip(sources, found, strict=True):
        assert correlation(source, estimated) > 0.97
    # What the gains know of an output comes from both sources by now.
    assert np.linalg.norm(found) / np.linalg.norm(sources) == pytest.approx(1, abs=0.5)


def test_level_does_not_depend_on_the_network_s():
    sources = tones(5000)
    expected = separated(sources.sum(0), filters)
    found = separated(sources.sum(0), lambda x: filters(x) * np.array([[-3.0], [0.5]], np.float32))
    np.testing.assert_allclose(found, expected, atol=0.03)
    louder = separated(100 * sources.sum(0), filters)
    np.testing.assert_allclose(louder, 100 * expected, rtol=1e-3, atol=0.1)


def test_gains_are_those_of_least_squares():
    sources = np.linalg.qr(RNG.standard_normal((4000, 3)))[0].T * np.sqrt(4000)
    sources -= sources.mean(1, keepdims=True)
    factors = np.array([-2.0, 0.5, 1.0])
    fit = MixtureFit()
    for _ in range(2):  # of the same sound, nothing new is learnt
        gains = fit.gains((factors[:, None] * sources)[None], sources.sum(0)[None])
    np.testing.assert_allclose(gains, 1 / factors, rtol=0.15)  # RIDGE pulls the faint one towards 1
    assert list(np.sign(gains)) == [-1, 1, 1]
    # Where two estimates are the same, they share; a faint one is left as it is, but for its sign.
    alike = MixtureFit().gains(np.stack([sources[0], sources[0]])[None], sources[0][None])
    np.testing.assert_allclose(alike, [0.5, 0.5], atol=0.02)
    faint = MixtureFit().gains(
        np.stack([sources[0], -1e-4 * sources[1]])[None], sources[:2].sum(0)[None]
    )
    np.testing.assert_allclose(faint, [1.0, -1.0], atol=0.06)
    assert MixtureFit().gains(np.zeros((1, 2, 10)), np.zeros((1, 10))).tolist() == [1.0, 1.0]


def test_silence_is_silent_and_keeps_the_order():
    sources = tones(6000)
    sources[:, 2000:3900] = 0.0  # longer than a chunk: overlaps with silence alone
    calls = []

    def network(x):
        calls.append(len(x))
        return filters(x)[::-1] if len(calls) > 1 else filters(x)

    found = separated(sources.sum(0), network)
    assert np.all(found[:, 2550:3250] == 0), "of the chunk that starts at 2400 alone"
    assert np.all(np.isfinite(found))
    # After the silence nothing tells the sources: the outputs keep the last known order.
    for n, source in enumerate(sources):
        assert correlation(source[:1900], found[n, :1900]) > 0.95
        assert correlation(source[4300:], found[n, 4300:]) > 0.95


@pytest.mark.parametrize("offset", [0.0, 0.3, -1e3])
def test_a_constant_is_silence(offset):
    assert np.all(estimate(np.full(100, offset, np.float32), shares) == 0)


def test_estimates_follow_the_level_of_the_chunk():
    chunk = (1e-3 * RNG.standard_normal(400) + 0.5).astype(np.float32)
    np.testing.assert_allclose(estimate(chunk, shares), shares(chunk - chunk.mean()), atol=1e-6)
    assert np.isfinite(estimate(np.float32(1e30) * periodic(100), shares)).all(), (
        "squares beyond float32"
    )


def test_values_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match="the network gave NaN"):
        separated(
            periodic(100),
            lambda x: np.stack([x, x / 0 if len(x) == 0 else np.full_like(x, np.nan)]),
        )


def test_channels_agree_on_the_order():
    """Channel 1 hears the same sources 5 ms later: its waveforms say nothing, the envelopes do."""
    rng = np.random.default_rng(2)
    carrier = rng.standard_normal((3, 16000))
    envelope = np.repeat(rng.random((3, 100)) ** 3, 160, axis=1)
    sources = (carrier * envelope).astype(np.float32)
    late = np.roll(sources, 40, axis=1)[[2, 0, 1]]
    found, orders = ordered(np.stack([sources, late]), None, None)
    np.testing.assert_array_equal(orders, [[0, 1, 2], [1, 2, 0]])
    np.testing.assert_array_equal(found[1], np.roll(sources, 40, axis=1))


def test_envelopes():
    signal = np.concatenate([np.full(160, 3.0), np.full(160, -1.0), np.ones(7)])[None]
    np.testing.assert_allclose(envelopes(signal), [[1.0, -1.0]])
    assert envelopes(np.ones((2, 100))).shape == (2, 0)


def test_consistent_estimates_add_up():
    mixture = RNG.standard_normal((2, 3000)).astype(np.float32)
    estimates = RNG.standard_normal((2, 3, 3000)).astype(np.float32)
    cuts = [0, 1, 700, 700, 1500]
    blocks = mixture_consistent(np.split(estimates, cuts, axis=-1), split(mixture))
    found = np.concatenate(list(blocks), axis=-1)
    np.testing.assert_allclose(found.sum(1), mixture, atol=1e-5)
    lacking = (mixture - estimates.sum(1)) / 3
    np.testing.assert_allclose(found, estimates + lacking[:, None], atol=1e-5)


def test_plans():
    assert make_plan(8000, 30.0, 1.0) == Plan(240_000, 8000, 2000)
    assert make_plan(44_100, 0.5, 0.25) == Plan(22_050, 11_025, 2756)
    assert make_plan(8000, np.inf, 1.0).length == 0


@pytest.mark.parametrize(
    ("chunk", "overlap", "message"),
    [
        (1.0, 0.6, "overlap is 0.6 s; it must be above 0 and at most half of chunk, which is 1 s"),
        (1.0, 0.0, "overlap is 0 s"),
        (-1.0, -2.0, "overlap is -2 s"),
        (np.nan, 1.0, "overlap is 1 s"),
        (1.0, 3e-4, "at least 0.0005 s"),
    ],
)
def test_plans_that_cannot_be(chunk, overlap, message):
    with pytest.raises(ValueError, match=message):
        make_plan(8000, chunk, overlap)
