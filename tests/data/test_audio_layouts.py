"""Reading files and datasets: what comes out of good ones, what is said about bad ones."""

import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from trees import RATE, noise, write, write_esc50, write_tree, write_wsj0

from jaxsep.data.audio import read_audio, write_wav
from jaxsep.data.layouts import ESC50_GROUPS, Row, read_layout, utterances_of
from jaxsep.errors import DataError


@pytest.mark.parametrize(
    ("rate", "frequency", "tolerance"),
    [(8000, 440, 1e-6), (16000, 440, 1e-4), (44100, 3300, 1e-3), (6000, 440, 1e-3)],
)
def test_a_tone_at_any_rate_is_the_tone_at_8_khz(tmp_path, rate, frequency, tolerance):
    write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * frequency * np.arange(rate) / rate), rate)
    samples, channels = read_audio(tmp_path / "tone.wav", RATE)
    expected = 0.5 * np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE)
    assert samples.dtype == np.float32
    assert channels == 1
    assert samples.shape == expected.shape
    # The ends lack the past and future that the filter looks at.
    np.testing.assert_allclose(samples[500:-500], expected[500:-500], atol=tolerance)


def test_published_44k_clips_are_the_8k_clips(recordings_dir):
    clips = sorted((recordings_dir / "ESC-50-44k" / "audio").glob("*.wav"))
    assert clips
    for clip in clips:
        resampled, _ = read_audio(clip, RATE)
        known, _ = read_audio(recordings_dir / "ESC-50" / "audio" / clip.name, RATE)
        error = resampled[: known.size].astype(float) - known
        assert np.sum(error**2) < 0.01 * np.sum(known.astype(float) ** 2), clip.name


def test_channels_are_averaged_and_counted(tmp_path):
    stereo = np.stack([noise(1, 4000), noise(2, 4000)], axis=1)
    write(tmp_path / "stereo.wav", stereo)
    samples, channels = read_audio(tmp_path / "stereo.wav", RATE)
    assert channels == 2
    np.testing.assert_allclose(samples, stereo.mean(axis=1), atol=1e-7)


def test_written_samples_come_back_exactly(tmp_path):
    samples = (30 * noise(3, 2000)).astype(np.float32)  # beyond ±1: must not be clipped
    write_wav(tmp_path / "deep" / "x.wav", samples, 16000)
    assert soundfile.info(tmp_path / "deep" / "x.wav").samplerate == 16000
    np.testing.assert_array_equal(read_audio(tmp_path / "deep" / "x.wav", 16000)[0], samples)


def test_a_name_that_is_not_utf8(tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    write(tmp_path / "plain.wav", noise(0, 500))
    os.rename(tmp_path / "plain.wav", odd)
    assert read_audio(odd, RATE)[0].size == 500
    with pytest.raises(DataError, match=r"caf\\xe8.*no such file") as caught:
        read_audio(odd.replace("\udce9", "\udce8"), RATE)
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize("rate", [8000, 16000])
def test_finite_samples_whose_sums_are_not(tmp_path, rate):
    """Resampling or averaging would make them infinite."""
    write(tmp_path / "a.wav", np.stack([np.full(100, 3e38), noise(0, 100)], axis=1), rate)
    with pytest.raises(DataError, match=r"a\.wav: holds NaN or infinite .* must be within ±2\^32"):
        read_audio(tmp_path / "a.wav", 8000)


# (fold, target, category, source recording, take)
FOLDS = [(fold, 0, "dog", f"9{fold}{k}", "A") for fold in (1, 2, 3, 4) for k in range(2)]
FOLDS += [(2, 10, "rain", "500", "A"), (4, 29, "drinking_sipping", "501", "A")]
FOLDS += [(4, 30, "door_wood_knock", "502", "A")]
FOLDS += [(5, 0, "dog", take[0], take[1]) for take in ("1A", "1B", "1C", "2A", "2B", "3A", "4A")]
FOLDS += [(5, 10, "rain", "20", take) for take in "ABC"]
FOLDS += [(5, 49, "hand_saw", "30", "A"), (5, 49, "hand_saw", "31", "A")]


def test_esc50_folds_groups_and_halves(tmp_path):
    layout, rows, *_ = read_layout(write_esc50(tmp_path, FOLDS), "environment")
    assert layout == "esc50"
    assert len(rows) == len(FOLDS)
    assert rows[0] == Row(("audio/1-910-A-0.wav",), (("dog", "animals"),), "train")
    assert dict(row.classes[0] for row in rows) == {
        "dog": "animals",
        "rain": "natural_soundscapes",
        "drinking_sipping": "human_non_speech",
        "door_wood_knock": "interior_domestic",
        "hand_saw": "exterior_urban",
    }
    assert {row.split for row in rows if not row.paths[0].startswith("audio/5")} == {"train"}
    # dog: sources of 3, 2, 1, 1 clips; rain: one source; hand_saw: two.
    held_out = [row for row in rows if row.paths[0].startswith("audio/5")]
    assert Counter((row.classes[0][0], row.split) for row in held_out) == {
        ("dog", "test"): 4,
        ("dog", "val"): 3,
        ("rain", "test"): 3,
        ("hand_saw", "test"): 1,
        ("hand_saw", "val"): 1,
    }


def test_a_source_of_two_classes_stays_in_one_half(tmp_path):
    entries = [(5, 0, "dog", source, "A") for source in "789"] + [(5, 10, "rain", "8", "B")]
    rows = read_layout(write_esc50(tmp_path, entries), "environment").rows
    # rain has one source: it must be in test.
    assert {row.split for row in rows if "-8-" in row.paths[0]} == {"test"}


def test_real_esc50_halves_are_disjoint_and_balanced(recordings_dir):
    rows = read_layout(recordings_dir / "ESC-50", "environment").rows
    # Counted in the table.
    assert Counter(row.paths[0][6] for row in rows) == {"2": 92, "3": 81, "4": 400, "5": 81}
    assert {row.classes[0][1] for row in rows} == set(ESC50_GROUPS)
    halves: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, Counter] = defaultdict(Counter)
    counts = Counter()
    for row in rows:
        fold, source = Path(row.paths[0]).name.split("-")[:2]
        if fold == "5":
            halves[row.split].add(source)
            sources[row.classes[0][0]][source] += 1
            counts[row.classes[0][0], row.split] += 1
        else:
            assert row.split == "train"
    assert set(halves) == {"val", "test"}
    assert not halves["val"] & halves["test"]
    for name, clips in sources.items():
        difference = abs(counts[name, "val"] - counts[name, "test"])
        if len(clips) == 1:
            assert counts[name, "val"] == 0, f"{name} has one source, which belongs to test"
        else:
            assert difference <= max(1, 2 * max(clips.values()) - sum(clips.values())), name


FILENAMES = ["../x.wav", "{}/x.wav", "x/../../x.wav", "C:x.wav", "a\\b.wav", "..", ".", "a\0.wav"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("category", "kind", "line 2: category is None; must be a name"),
        ("1-910-A-0.wav,1,", "1-910-A-0.wav,6,", "line 2: fold is '6'; must be 1 to 5"),
        ("1-910-A-0.wav,1,0,", "1-910-A-0.wav,1,50,", "line 2: target is '50'; must be 0 to 49"),
        ("1-910-A-0.wav,1,0,dog", "1-910-A-0.wav,1,0,", "line 2: category is ''; must be a name"),
        *(("1-910-A-0.wav", name, "line 2: filename is ") for name in FILENAMES),
    ],
)
def test_a_damaged_esc50_table(tmp_path, old, new, said):
    table = write_esc50(tmp_path, FOLDS) / "meta" / "esc50.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new.format(tmp_path), 1))
    with pytest.raises(DataError, match="esc50") as caught:
        read_layout(tmp_path, "environment")
    assert said in str(caught.value)


# What may not be a class: its name becomes part of the names of the excerpts that a run leaves.
@pytest.mark.parametrize(
    "name", ["../../x", "/x", "a/b", "a\\b", "..", ".", "a\0b", "y" * 201, "ü" * 101]
)
def test_names_of_classes_can_be_names_of_files(tmp_path, name):
    table = write_esc50(tmp_path, FOLDS) / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace("rain", name))
    with pytest.raises(DataError, match=rf"{tmp_path}.* cannot be the name of a class"):
        read_layout(tmp_path, "environment")


@pytest.mark.parametrize("level", ["", "2speakers", "2speakers/wav8k", "2speakers/wav8k/min"])
def test_wsj0_as_a_speech_corpus(tmp_path, level):
    layout, rows, *_ = read_layout(write_wsj0(tmp_path) / level, "speech")
    assert layout == "wsj0-2mix"
    base = "2speakers/wav8k/min/".removeprefix(level).lstrip("/")
    # Each utterance once a split, by its longest copy: 011a0101 of 9,000 and 12,000 samples,
    # 22ga0102 of 12,000 and 8,000.
    said = {row.paths[0].removeprefix(base): (row.classes[0][0], row.split) for row in rows}
    assert {row.classes[0][1] for row in rows} == {"speech"}
    assert said == {
        "tr/s1/011a0101_0.5_22ga0102_-0.5.wav": ("011", "train"),
        "tr/s2/011a0101_0.5_22ga0102_-0.5.wav": ("22g", "train"),
        "tr/s2/011a0101_1.8_20aa010b_-1.8.wav": ("20a", "train"),
        "tr/s2/22ga0102_2.1_011a0102_-2.1.wav": ("011", "train"),
        "cv/s1/050a0501_0.3_051a0502_-0.3.wav": ("050", "val"),
        "cv/s2/050a0501_0.3_051a0502_-0.3.wav": ("051", "val"),
        "tt/s1/440c0201_1.0_441c0202_-1.0.wav": ("440", "test"),
        "tt/s2/440c0201_1.0_441c0202_-1.0.wav": ("441", "test"),
        "tt/s1/442c0203_0.1_443c0204_-0.1.wav": ("442", "test"),
        "tt/s2/442c0203_0.1_443c0204_-0.1.wav": ("443", "test"),
    }


def test_names_that_are_not_of_wsj0(tmp_path):
    for stem in ("piano", "011a0101_x_20aa010b_-1.8", "011a0101_1.8", "1001-134707-0031_32-16-12"):
        assert utterances_of(stem) == ()
    write(write_wsj0(tmp_path) / "2speakers/wav8k/min/tr/s1/piano.wav", noise(0, 100))
    with pytest.raises(DataError, match=r"tr/s1/piano.wav: no WSJ0-2mix name"):
        read_layout(tmp_path, "speech")


def test_tree(tmp_path):
    write_tree(tmp_path, classes=2, clips=1)
    write(tmp_path / "train" / "c0" / "chapter" / "deep.flac", noise(0, 900), subtype="PCM_16")
    write(tmp_path / "train" / "c0" / "UPPER.WAV", noise(0, 900), subtype="PCM_16")
    (tmp_path / "train" / "c0" / "._0.wav").write_bytes(b"left by a Mac")
    (tmp_path / "train" / "c0" / "notes.txt").write_text("no sound")
    (tmp_path / "train" / "c0" / "loop").symlink_to(tmp_path / "train" / "c0")
    layout, rows, _, others = read_layout(tmp_path, "environment")
    assert layout == "tree"
    assert others == {".txt": 1, "links to folders": 1}
    assert [row.paths[0] for row in rows] == [
        "test/c0/0.wav",
        "test/c1/0.wav",
        "train/c0/0.wav",
        "train/c0/UPPER.WAV",
        "train/c0/chapter/deep.flac",
        "train/c1/0.wav",
        "val/c0/0.wav",
        "val/c1/0.wav",
    ]
    for row in rows:
        split, class_name, *_ = row.paths[0].split("/")
        assert (row.split, row.classes) == (split, ((class_name, "environment"),))


@pytest.mark.parametrize(
    ("corpus", "kind", "said"),
    [
        ("speech", "missing", "no readable folder"),
        ("speech", "file", "no readable folder"),
        ("speech", "empty", "is empty"),
        ("environment", "unknown", "holds no recordings in a known layout"),
        ("environment", "bare", "holds no recordings in a known layout"),
        ("premixed", "bare", "holds no recordings in a known layout"),
    ],
)
def test_roots_that_are_no_dataset(tmp_path, corpus, kind, said):
    root = tmp_path / "root"
    if kind == "file":
        root.write_text("x")
    elif kind != "missing":
        root.mkdir()
    if kind == "unknown":
        (root / "holiday.wav").write_bytes(b"")
    if kind == "bare":
        (root / "train" / "c0").mkdir(parents=True)
    with pytest.raises(DataError, match=said) as caught:
        read_layout(root, corpus)
    assert str(caught.value).startswith(f"data.{corpus}_root: {root}")
    assert "WSJ0-2mix" in str(caught.value), "the message must say which layouts are known"
