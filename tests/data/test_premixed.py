"""Premixed sets: every published mixture as it is, and crops of them for training."""

import shutil

import numpy as np
import pytest
import soundfile
from trees import (
    LIBRI,
    RATE,
    WSJ0,
    noise,
    write,
    write_libri2mix,
    write_roles,
    write_wsj0,
)

from jaxsep.data.mixtures.dynamic import draw, render
from jaxsep.data.mixtures.premixed import make_premixed_pool
from jaxsep.data.mixtures.recipes import load_recipes, save_recipes
from jaxsep.data.packs.format import class_table
from jaxsep.data.packs.packing import prepare
from jaxsep.errors import DataError

BASE = "2speakers/wav8k/min"


@pytest.fixture(scope="module")
def wsj0_root(tmp_path_factory):
    return write_wsj0(tmp_path_factory.mktemp("wsj0"))


@pytest.fixture(scope="module")
def wsj0(wsj0_root, tmp_path_factory):
    return prepare(wsj0_root, "premixed", RATE, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def libri(tmp_path_factory):
    """Packs Libri2Mix, which lies there at two rates."""
    root, cache = tmp_path_factory.mktemp("libri"), tmp_path_factory.mktemp("cache")
    for rate in (RATE, 16000):
        write_libri2mix(root, rate)

    def prepared(*roles, rate=RATE):
        return prepare(root, "premixed", rate, cache, roles=roles)

    return prepared


def class_names(pool, batch) -> list[list[str]]:
    return [[pool.table.names[k] for k in row] for row in batch["class_ids"]]


def test_wsj0_test_mixtures_are_whole_in_order_and_each_once(wsj0, wsj0_root):
    pool = make_premixed_pool(wsj0, split="test", segment_seconds=None)
    entries = sorted((e for e in WSJ0 if e[0] == "tt"), key=lambda e: e[1])
    assert pool.num_mixtures == 3
    assert (pool.num_samples, pool.num_sources, pool.sample_rate) == (11000, 2, RATE)
    recipes = draw(pool, 0, 0, np.arange(3))
    assert sorted(recipes["recording"][:, 0]) == sorted(pool.mixtures)
    batch = render(pool, recipes)
    assert batch["lengths"].tolist() == [entry[5] for entry in entries]
    assert class_names(pool, batch) == [["440", "441"], ["441", "442"], ["442", "443"]]
    for b, (split, first, level1, second, level2, samples) in enumerate(entries):
        name = f"{first}_{level1}_{second}_{level2}.wav"
        files = [wsj0_root / BASE / split / role / name for role in ("mix", "s1", "s2")]
        signals = [soundfile.read(file)[0] for file in files]
        mixture, *sources = [signal - signal.mean() for signal in signals]
        expected = np.stack([mixture, *sources]) / mixture.std()
        rendered = np.concatenate([batch["mixture"][b, None], batch["sources"][b]])
        np.testing.assert_allclose(rendered[:, :samples], expected, atol=1e-5)
        assert (rendered[:, samples:] == 0).all()
        snr = 10 * np.log10(np.var(sources[0]) / np.var(sources[1]))
        assert batch["snr"][b] == pytest.approx(snr, abs=1e-3)
        assert recipes["snr"][b] == pytest.approx(snr, abs=1e-3)


@pytest.mark.parametrize("level", ["", "2speakers", "2speakers/wav8k", BASE])
def test_any_level_of_the_published_tree(wsj0_root, tmp_path, level):
    premixed = prepare(wsj0_root / level, "premixed", RATE, tmp_path)
    assert premixed.roles == ("mix", "s1", "s2")
    assert np.bincount(premixed.splits).tolist() == [3, 1, 3]
    assert premixed.class_groups == ("speech",) * len(premixed.class_names)


def test_libri2mix_splits_speakers_and_rates(libri):
    premixed = libri()
    assert premixed.roles == ("mix_clean", "s1", "s2")
    assert all("wav8k" in path for path in premixed.paths)
    assert all("wav16k" in path for path in libri(rate=16000).paths)
    # train-100 and train-360 are both training.
    for split, names, count in (
        ("train", ("train-100", "train-360"), 3),
        ("val", ("dev",), 1),
        ("test", ("test",), 2),
    ):
        pool = make_premixed_pool(premixed, split=split, segment_seconds=None)
        assert pool.num_mixtures == count
        stems = [stem for name in names for stem in sorted(LIBRI[name])]
        expected = [[utterance.split("-")[0] for utterance in stem.split("_")] for stem in stems]
        batch = render(pool, draw(pool, 0, 0, np.arange(count)))
        assert class_names(pool, batch) == expected


@pytest.mark.parametrize(
    ("roles", "adds_up"),
    [
        (("mix_clean", "s1", "s2"), True),
        (("mix_both", "s1", "s2"), False),
        (("mix_both", "s1", "s2", "noise"), True),
    ],
)
def test_noisy_mixtures_are_the_sum_of_all_that_is_in_them(libri, roles, adds_up):
    premixed = libri(*roles)
    assert premixed.roles == roles
    pool = make_premixed_pool(premixed, split="train", segment_seconds=0.5)
    batch = render(pool, draw(pool, 0, 0, np.arange(12)))
    error = np.abs(batch["sources"].sum(axis=1) - batch["mixture"]).max()
    assert (error < 1e-3) == adds_up  # the files are rounded to 16 bit
    np.testing.assert_allclose(batch["mixture"].std(axis=1), 1, atol=1e-4)
    assert np.abs(batch["sources"].mean(axis=2)).max() < 1e-5
    if roles[-1] == "noise":
        noise_id = pool.table.names.index("noise")
        assert pool.table.groups[noise_id] == pool.table.corpora[noise_id] == "noise"
        assert (batch["class_ids"][:, 2] == noise_id).all()


def test_training_crops_every_mixture_once_a_pass(wsj0):
    pool = make_premixed_pool(wsj0, split="train", segment_seconds=0.5)
    orders, offsets = [], []
    for epoch in range(20):
        recipes = draw(pool, 1, epoch, np.arange(6))
        assert (recipes["recording"] == recipes["recording"][:, :1]).all()
        assert (recipes["offset"] == recipes["offset"][:, :1]).all(), "all roles share the offset"
        orders.append(tuple(recipes["recording"][:, 0]))
        assert sorted(orders[-1][:3]) == sorted(orders[-1][3:]) == sorted(pool.mixtures)
        offsets.extend(recipes["offset"][:, 0])
        part = draw(pool, 1, epoch, np.array([4]))
        assert all(np.array_equal(part[key], recipes[key][4:5]) for key in recipes)
        spare = wsj0.lengths[recipes["recording"][:, 0]] - pool.num_samples
        assert ((recipes["offset"][:, 0] >= 0) & (recipes["offset"][:, 0] <= spare)).all()
    assert len(set(orders)) > 10
    assert len(set(offsets)) > 100
    batch = render(pool, recipes)
    assert (batch["lengths"] == 4000).all()
    assert np.abs(batch["sources"].sum(axis=1) - batch["mixture"]).max() < 1e-3


def test_mixtures_shorter_than_the_segment_are_padded_at_the_end(wsj0):
    pool = make_premixed_pool(wsj0, split="train", segment_seconds=1.25)
    recipes = draw(pool, 0, 0, np.arange(3))
    batch = render(pool, recipes)
    lengths = wsj0.lengths[recipes["recording"][:, 0]]
    assert sorted(lengths) == [8000, 9000, 12000]
    assert batch["lengths"].tolist() == np.minimum(lengths, 10000).tolist()
    for mixture, length in zip(batch["mixture"], batch["lengths"], strict=True):
        assert (mixture[length:] == 0).all()
        assert mixture[:length].std() == pytest.approx(1, abs=1e-4)
        assert abs(mixture[:length].mean()) < 1e-5


def test_a_silent_source_is_inactive(tmp_path):
    sound, silence = noise(0, 4000), np.zeros(4000)
    for role, a in (("mix", sound), ("s1", sound), ("s2", silence)):
        write(tmp_path / "set" / "tt" / role / "a.wav", a)
        write(tmp_path / "set" / "tt" / role / "b.wav", silence)
    premixed = prepare(tmp_path / "set", "premixed", RATE, tmp_path / "cache")
    pool = make_premixed_pool(premixed, split="test", segment_seconds=None)
    batch = render(pool, draw(pool, 0, 0, np.arange(2)))
    assert batch["active"].tolist() == [[True, False], [False, False]]
    assert batch["class_ids"].tolist() == [[0, -1], [-1, -1]]
    assert batch["snr"].tolist() == [0, 0]
    assert all(np.isfinite(batch[key]).all() for key in ("mixture", "sources"))
    assert pool.table.names == ("s1", "s2"), "names that tell no speaker: the roles"
    assert set(pool.table.corpora) == {"premixed"}


def test_packed_once_and_again_when_a_file_changes(tmp_path):
    root, cache = write_wsj0(tmp_path / "wsj0"), tmp_path / "cache"
    first = prepare(root, "premixed", RATE, cache)
    # Of version 3 of packs: finished runs are compared by it.
    assert first.fingerprint.startswith("d80c859a25d4f375")
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    again = prepare(root, "premixed", RATE, cache)
    assert {path: path.stat().st_mtime_ns for path in again.folder.iterdir()} == before
    assert prepare(first.folder, "premixed", RATE, "/nonexistent").fingerprint == first.fingerprint
    write_roles(root / BASE / "tr", "011a0101_1.8_20aa010b_-1.8.wav", 77, 9000)
    assert prepare(root, "premixed", RATE, cache).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("name", "rate", "roles", "said"),
    [
        ("speech", RATE, (), "name 'premixed'; must be 'speech'"),
        ("premixed", 16000, (), "sample_rate 8000; must be 16000"),
        ("premixed", RATE, ("mix", "s1"), r"roles \('mix', 's1', 's2'\); must be \('mix', 's1'\)"),
    ],
)
def test_a_pack_of_another_kind_is_refused(wsj0, name, rate, roles, said):
    with pytest.raises(DataError, match=f"data.{name}_root: .* {said}"):
        prepare(wsj0.folder, name, rate, "/nonexistent", roles=roles)


def test_recipes_go_to_a_file_and_back(wsj0, tmp_path):
    pool = make_premixed_pool(wsj0, split="test", segment_seconds=None)
    recipes = draw(pool, 0, 0, np.arange(3))
    save_recipes(tmp_path / "test.npz", recipes, pool)
    loaded = load_recipes(tmp_path / "test.npz", pool)
    assert all(np.array_equal(loaded[key], recipes[key]) for key in recipes)
    assert class_table([wsj0]) == pool.table


ONE = "050a0501_0.3_051a0502_-0.3.wav"


def remove_splits(root):
    for split in ("tr", "cv", "tt"):
        shutil.rmtree(root / split)
    (root / "notes").mkdir()


DAMAGES = {
    "no file": lambda root: (root / "cv/s2" / ONE).unlink(),
    "short": lambda root: write(root / "cv/s1" / ONE, noise(0, 9999)),
    "garbled": lambda root: (root / "cv/s1" / ONE).write_bytes(b"nonsense"),
    "no role": lambda root: shutil.rmtree(root / "cv" / "s2"),
    "no mix": lambda root: shutil.rmtree(root / "tr" / "mix"),
    "no splits": remove_splits,
    "": lambda root: None,
}


@pytest.mark.parametrize(
    ("act", "roles", "said"),
    [
        ("no file", (), rf"cv/s2/{ONE}: cannot be read as sound \(no such file"),
        ("short", (), rf"cv/mix/{ONE}: its roles have 10000, 9999, 10000 samples"),
        ("garbled", (), r"cv/s1/050a0501.*cannot be read as sound"),
        ("no role", (), r"data.premixed_roles: is .*'s2'\) for .*cv; must be folders in it"),
        ("no mix", (), r"data.premixed_roles: is \(\) for .*tr; must be .* one of mixtures"),
        (
            "no splits",
            (),
            r"data.premixed_root: .* no recordings in a known layout; known: .*WHAM!",
        ),
        ("", ("mix", "s3"), "data.premixed_roles: is .* for .*tr; must be folders in it"),
        ("", ("mix",), "data.premixed_roles: is .* and of their sources"),
        ("", ("mix", "s1", "s1"), "data.premixed_roles: is .* all different"),
        ("", ("mix", "../tr/s1"), "data.premixed_root: .* cannot be the name of a class"),
    ],
)
def test_sets_that_cannot_be_used(tmp_path, act, roles, said):
    root = write_wsj0(tmp_path / "wsj0") / BASE
    DAMAGES[act](root)
    with pytest.raises(DataError, match=said):
        prepare(root, "premixed", RATE, tmp_path / "cache", roles=roles)
    assert not list(tmp_path.glob("cache/*"))


def test_roots_and_pools_that_cannot_be(tmp_path):
    with pytest.raises(DataError, match=r"data.premixed_root: /nonexistent is no readable folder"):
        prepare("/nonexistent", "premixed", RATE, tmp_path)
    shutil.rmtree(write_wsj0(tmp_path / "wsj0") / BASE / "tt")
    without = prepare(tmp_path / "wsj0", "premixed", RATE, tmp_path / "cache")
    with pytest.raises(DataError, match="no test mixtures; needed: one of the folders tt, test"):
        make_premixed_pool(without, split="test", segment_seconds=None)
