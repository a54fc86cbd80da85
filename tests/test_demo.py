"""The synthetic corpus: the same each time, labelled, and with classes that differ."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxsep.data.mixtures.dynamic import draw, make_pool, render
from jaxsep.data.packs.corpus import class_table, prepare
from jaxsep.data.synthetic import ENVIRONMENTS, make_demo, speech
from jaxsep.errors import DataError


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    make_demo(folder)
    return folder


@pytest.fixture(scope="module")
def corpora(demo, tmp_path_factory):
    cache = tmp_path_factory.mktemp("packed")
    return {
        name: prepare(demo / name, name, 8000, cache, progress=False)
        for name in ("speech", "environment")
    }


def sounds(folder: Path) -> dict[str, np.ndarray]:
    return {
        str(path.relative_to(folder)): soundfile.read(path)[0]
        for path in sorted(folder.rglob("*.wav"))
    }


def test_it_is_labelled_synthetic_and_covers_every_split(corpora):
    for corpus in corpora.values():
        assert corpus.synthetic
        assert set(corpus.splits) == {0, 1, 2}
    speech = corpora["speech"]
    speakers = [set(speech.classes[speech.splits == split]) for split in range(3)]
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


@pytest.mark.parametrize(("rate", "seed"), [(2000, 0), (8000, -1)])
def test_arguments_out_of_range(tmp_path, rate, seed):
    with pytest.raises(DataError, match="at least 4000"):
        make_demo(tmp_path / "demo", sample_rate=rate, seed=seed)
    assert not (tmp_path / "demo").exists()


def test_the_same_seed_gives_the_same_sounds(demo, tmp_path):
    make_demo(tmp_path / "again")
    first, again = sounds(demo), sounds(tmp_path / "again")
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert len({samples.tobytes() for samples in first.values()}) == len(first), (
        "no two recordings are the same"
    )


def spectrum(samples: np.ndarray) -> np.ndarray:
    """Levels of 24 bands of a recording, and how much each varies in time."""
    frames = samples[: samples.size // 256 * 256].reshape(-1, 256) * np.hanning(256)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    sums = [band.sum(axis=1) for band in np.array_split(power[:, 1:], 24, axis=1)]
    bands = np.log10(1e-5 + np.stack(sums, axis=1))
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0)])


def features_by_class(demo, split):
    """(class, features of a recording); speech is one class."""
    for folder in [*(demo / "environment" / split).iterdir(), demo / "speech" / split]:
        name = "speech" if "speech" in folder.parts else folder.name
        for samples in sounds(folder).values():
            yield name, spectrum(samples)


def test_classes_are_told_apart_by_their_spectra(demo):
    """The nearest class mean of the training recordings is that of nearly all test recordings."""
    trained = list(features_by_class(demo, "train"))
    means = {
        name: np.mean([features for of, features in trained if of == name], axis=0)
        for name, _ in trained
    }
    tested = list(features_by_class(demo, "test"))
    right = sum(
        min(means, key=lambda other: np.linalg.norm(features - means[other])) == name
        for name, features in tested
    )
    assert len(tested) == 42
    assert right / len(tested) > 0.95


@pytest.mark.parametrize("pitch", [100.0, 220.0])
def test_a_voice_has_its_pitch(pitch):
    samples = speech(np.random.default_rng(0), 8000, pitch=pitch, tract=1.0, tempo=3.5).astype(
        float
    )
    pitches = []
    for frame in samples[: samples.size // 800 * 800].reshape(-1, 800):
        spectrum = np.fft.rfft(frame - frame.mean(), 2048)
        correlation = np.fft.irfft(np.abs(spectrum) ** 2)
        lag = 20 + correlation[20:110].argmax()
        if correlation[lag] > 0.5 * correlation[0]:
            pitches.append(8000 / lag)
    assert len(pitches) > 10, "most of it is voiced"
    assert np.median(pitches) == pytest.approx(pitch, rel=0.15)


def test_it_mixes(corpora):
    table = class_table(list(corpora.values()))
    for slots in (("speech", "environment"), ("speech", "speech"), ("environment", "environment")):
        for split in ("train", "val", "test"):
            pool = make_pool(
                corpora, table, split=split, slots=slots, segment_seconds=1.0, max_snr_db=10.0
            )
            batch = render(pool, draw(pool, 0, 0, np.arange(40)))
            assert batch["active"].all()
            assert np.isfinite(batch["mixture"]).all()
