"""The synthetic corpus: the same each time, labelled, and with classes that differ."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxsep.data.packs.packing import prepare
from jaxsep.data.synthetic import ENVIRONMENTS, environment, make_demo, speech
from jaxsep.errors import DataError


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    make_demo(folder)
    return folder


@pytest.fixture(scope="module")
def corpora(demo, tmp_path_factory):
    cache = tmp_path_factory.mktemp("packed")
    return {name: prepare(demo / name, name, 8000, cache) for name in ("speech", "environment")}


def sounds(folder: Path) -> dict[str, np.ndarray]:
    return {
        str(path.relative_to(folder)): soundfile.read(path)[0]
        for path in sorted(folder.rglob("*.wav"))
    }


def test_it_is_labelled_synthetic_and_covers_every_split(corpora):
    for corpus in corpora.values():
        assert corpus.synthetic
        assert set(corpus.splits) == {0, 1, 2}
    voices = corpora["speech"]
    speakers = [{*voices.classes[voices.splits == split].tolist()} for split in range(3)]
    assert [len(split) for split in speakers] == [12, 4, 4]
    assert not speakers[0] & speakers[1]
    assert not speakers[0] & speakers[2]
    environment = corpora["environment"]
    assert environment.class_names == tuple(sorted(ENVIRONMENTS))
    assert len(ENVIRONMENTS) >= 8
    for split in range(3):
        assert set(environment.classes[environment.splits == split]) == set(
            range(len(ENVIRONMENTS))
        )


def test_every_sound_is_heard_and_none_is_clipped(demo):
    for name, samples in sounds(demo).items():
        assert np.isfinite(samples).all(), name
        assert np.abs(samples).max() == pytest.approx(0.5, abs=1e-6), name
        assert samples.size == 32000, name


def test_a_second_call_leaves_it_and_other_arguments_are_refused(demo):
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*.wav")}
    make_demo(demo)
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*.wav")} == before
    with pytest.raises(DataError, match="something else than this synthetic corpus"):
        make_demo(demo, seed=1)


def test_nothing_of_the_users_is_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="must be empty or missing"):
        make_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_no_two_recordings_are_the_same_and_each_comes_again(demo):
    contents = {samples.tobytes() for samples in sounds(demo).values()}
    assert len(contents) == len(sounds(demo))
    voice = partial(speech, rate=8000, pitch=120.0, tract=1.0, tempo=3.5)
    for make in (voice, *(partial(environment, rate=8000, kind=kind) for kind in ENVIRONMENTS)):
        first, again = (make(np.random.default_rng(0)) for _ in range(2))
        assert np.array_equal(first, again)


def spectrum(samples: np.ndarray) -> np.ndarray:
    """Features of a recording: levels of 24 bands, and how much each varies in time."""
    frames = samples[: samples.size // 256 * 256].reshape(-1, 256) * np.hanning(256)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    split = np.array_split(power[:, 1:], 24, axis=1)
    bands = np.log10(1e-5 + np.stack([band.sum(axis=1) for band in split], axis=1))
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0)])


def test_classes_are_told_apart_by_their_spectra(demo):
    """The nearest mean of training recordings tells the class of nearly all test recordings."""
    means, right, total = {}, 0, 0
    folders = [*(demo / "environment" / "train").iterdir(), demo / "speech" / "train"]
    for folder in folders:
        name = "speech" if "speech" in folder.parts else folder.name
        means[name] = np.mean([spectrum(samples) for samples in sounds(folder).values()], axis=0)
    for folder in [*(demo / "environment" / "test").iterdir(), demo / "speech" / "test"]:
        name = "speech" if "speech" in folder.parts else folder.name
        for samples in sounds(folder).values():
            features = spectrum(samples)
            right += min(means, key=lambda known: np.linalg.norm(features - means[known])) == name
            total += 1
    assert total == 42
    assert right / total > 0.95


@pytest.mark.parametrize("pitch", [100.0, 220.0])
def test_a_voice_has_its_pitch(pitch):
    samples = speech(np.random.default_rng(0), 8000, pitch=pitch, tract=1.0, tempo=3.5)
    measured = []
    for frame in samples[: samples.size // 800 * 800].reshape(-1, 800):
        spectrum = np.fft.rfft(frame - frame.mean(), 2048)
        correlation = np.fft.irfft(np.abs(spectrum) ** 2)
        lag = 20 + correlation[20:110].argmax()
        if correlation[lag] > 0.5 * correlation[0]:
            measured.append(8000 / lag)
    assert len(measured) > 10, "most of it is voiced"
    assert np.median(measured) == pytest.approx(pitch, rel=0.15)
