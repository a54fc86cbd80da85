"""prepare --verify names what makes results worthless without being an error."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from trees import RATE, noise, write, write_esc50, write_libri2mix, write_wsj0

from jaxsep.data.checks.mixture_sums import add_up
from jaxsep.data.checks.verify import (
    Check,
    check_counts,
    check_duplicates,
    check_lengths,
    check_speakers,
    verify,
)
from jaxsep.data.packs.packing import prepare
from jaxsep.prepare import main


def checked(packed, root: Path) -> dict[str, Check]:
    checks = verify(packed, root)
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def corpus(root: Path, cache: Path, name: str = "speech") -> dict[str, Check]:
    return checked(prepare(root, name, RATE, cache), root)


def premixed(root: Path, cache: Path, **options) -> dict[str, Check]:
    return checked(prepare(root, "premixed", RATE, cache, **options), root)


def speakers_apart(root: Path) -> Path:
    """root/{train,val,test}/SPEAKER/0.wav, no speaker in two splits."""
    places = ("train/a", "train/b", "val/c", "test/d")
    for seed, place in enumerate(places):
        write(root / place / "0.wav", noise(seed, 4000 * (seed + 1)), subtype="PCM_16")
    return root


def wrong(checks: dict[str, Check]) -> dict[str, tuple[str, ...]]:
    return {name: check.wrong for name, check in checks.items() if check.wrong}


# Counts are from the README of the recordings. Of ESC-50 as published two Freesound recordings
# serve a class of fold 4 and another of fold 5.
REAL = {
    ("speech", "speech"): {
        "recordings": "train 249 of 249, val 58 of 58, test 50 of 50",
        "speakers": "train 234, val 22, test 5; no split shares one",
    },
    ("ESC-50", "environment"): {
        "sample rates": "8,000 Hz: 654 files",
        "lengths": "shortest 5.00 s, median 5.00 s, longest 5.00 s; 0 shorter than 1 s",
        "source recordings": "2 of them in two splits (209698, 234879 by serving two classes)",
    },
}


@pytest.mark.parametrize(("folder", "name"), REAL)
def test_the_real_recordings_are_sound(tmp_path, recordings_dir, capsys, folder, name):
    words = [str(recordings_dir / folder), "--name", name, "-o", str(tmp_path), "--verify"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    table = out.split("\n\n")[1].splitlines()
    start = table[0].index("result")
    # The columns are aligned.
    assert all(line[start - 2 : start] == "  " and line[start] != " " for line in table)
    rows = {line[:start].strip(): line[start:] for line in table}
    for check, result in REAL[folder, name].items():
        assert result in rows[check]


def test_rates_channels_and_lengths_are_counted(tmp_path):
    root = speakers_apart(tmp_path / "root")
    write(
        root / "train" / "a" / "stereo.flac",
        np.stack([noise(7, 44100), noise(8, 44100)], axis=1),
        44100,
        "PCM_24",
    )
    checks = corpus(root, tmp_path / "packs")
    assert not wrong(checks)
    assert checks["sample rates"].result == "8,000 Hz: 4 files; 44,100 Hz: 1 files"
    assert checks["channels"].result == "1: 4 files; 2: 1 files"
    assert (
        checks["lengths"].result
        == "shortest 0.50 s, median 1.00 s, longest 2.00 s; 1 shorter than 1 s"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ([0.5], "shortest 0.50 s, median 0.50 s, longest 0.50 s; 1 shorter"),
        ([3, 1, 0.25, 9], "shortest 0.25 s, median 2.00 s, longest 9.00 s; 1 shorter"),
    ],
)
def test_lengths(seconds, said):
    assert said in check_lengths(np.array(seconds)).result


def test_the_same_sound_in_train_and_test_is_wrong_whatever_its_name_and_format(tmp_path):
    root = speakers_apart(tmp_path / "root")
    samples, _ = soundfile.read(root / "train/b/0.wav")
    write(root / "test" / "d" / "other.flac", samples, subtype="PCM_24")
    line = "train/b/0.wav and test/d/other.flac: the same sound in train and test"
    assert wrong(corpus(root, tmp_path / "packs")) == {"same sound twice": (line,)}


def test_the_same_sound_twice_elsewhere_is_noted(tmp_path):
    root = speakers_apart(tmp_path / "root")
    shutil.copy(root / "train/b/0.wav", root / "train/b/copy.wav")
    shutil.copy(root / "train/b/0.wav", root / "train/b/copy2.wav")
    shutil.copy(root / "train/b/0.wav", root / "val/c/copy.wav")
    checks = corpus(root, tmp_path / "packs")
    assert not wrong(checks)
    said = checks["same sound twice"].result
    assert said == "within train 2, train–val 1, as train/b/0.wav = train/b/copy.wav"


def test_silent_sources_are_no_sound_that_is_there_twice(tmp_path):
    root = tmp_path / "set"
    for seed, split in enumerate(("tr", "tt")):
        for role in ("mix", "s1"):
            write(root / split / role / f"{split}.wav", noise(seed, 4000))
        write(root / split / "s2" / f"{split}.wav", np.zeros(4000))
    checks = premixed(root, tmp_path / "packs")
    assert not wrong(checks)
    assert checks["same sound twice"].result == "none"


def test_the_first_of_each_split_stands_for_a_sound():
    digests = np.empty((3, 2), object)
    digests[:] = [[b"", b"1"], [b"", b"2"], [b"", b"2"]]
    check = check_duplicates(digests, ["train", "train", "val"], ["a", "b", "c"])
    assert check == Check("same sound twice", "train–val 1, as b = c")


def test_a_speaker_in_train_and_test_is_wrong_and_in_train_and_val_noted(tmp_path):
    root = speakers_apart(tmp_path / "root")
    write(root / "val" / "a" / "1.wav", noise(11, 4000))
    checks = corpus(root, tmp_path / "packs")
    assert not wrong(checks)
    assert checks["speakers"].result == "train 2, val 2, test 1; train–val share 1 (as a)"
    write(root / "test" / "b" / "1.wav", noise(12, 4000))
    lines = ("speaker b: is in train and test",)
    assert wrong(corpus(root, tmp_path / "packs")) == {"speakers": lines}
    # Classes of sounds are in all splits by nature.
    assert "speakers" not in corpus(root, tmp_path / "packs", "environment")
    without_val = check_speakers({"train": {"a"}, "test": {"b"}})
    assert without_val.result == "train 1, test 1; no split shares one"


def test_a_source_recording_in_two_splits_is_wrong_within_a_class_and_noted_across_two(tmp_path):
    entries = [(4, 0, "dog", "1", "A"), (5, 0, "dog", "2", "A")]
    entries += [(5, 10, "rain", "3", "A"), (4, 37, "clock", "3", "A")]
    root = write_esc50(tmp_path / "root", entries)
    checks = corpus(root, tmp_path / "packs", "environment")
    assert not wrong(checks)
    noted = "3, 1 of them in two splits (3 by serving two classes)"
    assert checks["source recordings"].result == noted
    leaking = write_esc50(tmp_path / "leaking", [*entries, (5, 0, "dog", "1", "B")])
    checks = corpus(leaking, tmp_path / "packs", "environment")
    (line,) = wrong(checks)["source recordings"]
    assert line.startswith("source recording 1: has clips in train and ")


def test_recordings_that_are_not_in_the_pack_or_not_in_the_dataset_are_named(tmp_path):
    root = speakers_apart(tmp_path / "root")
    packed = prepare(root, "speech", RATE, tmp_path / "packs")
    (root / "val/c/0.wav").rename(root / "val/c/1.wav")
    lines = wrong(checked(packed, root))
    assert lines["recordings"] == (
        "val/c/1.wav: is in the dataset and not in its pack",
        "val/c/0.wav: is in the pack and not in the dataset",
    )
    assert "val/c/0.wav: cannot be read as sound (no such file)" in lines["source files"][0]


def test_left_out_recordings_are_counted_and_not_wrong(tmp_path):
    root = speakers_apart(tmp_path / "root")
    write(root / "train" / "a" / "silent.wav", np.zeros(400))
    (root / "train" / "a" / "text.wav").write_bytes(b"text")
    checks = checked(prepare(root, "speech", RATE, tmp_path / "packs", skip_bad=True), root)
    assert not wrong(checks)
    assert checks["recordings"].result.startswith(
        "train 2 of 4, val 1 of 1, test 1 of 1, 2 left out (as train/a/text.wav: "
    )
    moved = check_counts({"a": "train"}, {"a": "test"}, ())
    assert moved.wrong == ("a: is in train, packed as test",)


def test_a_pack_alone_is_verified_as_far_as_it_goes(tmp_path):
    packed = prepare(speakers_apart(tmp_path / "root"), "speech", RATE, tmp_path / "packs")
    checks = checked(packed, packed.folder)
    assert not wrong(checks)
    assert checks["source files"].result == "not checked: this is the pack itself"
    assert checks["pack's audio"].result.startswith("as written")


BASE = "wsj0/2speakers/wav8k/min"


@pytest.mark.parametrize("check", [premixed, corpus])
def test_mixtures_that_are_no_sum_of_their_sources_are_named_worst_first(tmp_path, check):
    root = write_wsj0(tmp_path / "wsj0")
    checks = check(root, tmp_path / "packs")
    assert not wrong(checks)
    assert checks["mix = s1 + s2"].result.startswith("7 of 7 add up; largest deviation ")
    for file, error in (
        ("tr/mix/011a0101_1.8_20aa010b_-1.8.wav", 4),
        ("tt/mix/440c0201_1.0_441c0202_-1.0.wav", 900),
    ):
        path = tmp_path / BASE / file
        samples, _ = soundfile.read(path, dtype="int16")
        samples[500] += error  # in steps of 2^-15; rounding of three files explains three
        soundfile.write(path, samples, RATE)
    worst, other = wrong(check(root, tmp_path / "packs"))["mix = s1 + s2"]
    assert "/440c0201_1.0_441c0202_-1.0.wav: " in worst
    assert "/011a0101_1.8_20aa010b_-1.8.wav: " in other
    assert f"off by up to {900 / 2**15:.1e}" in worst


def test_a_mixture_at_a_level_of_its_own_is_noted(tmp_path):
    root = write_wsj0(tmp_path / "wsj0")
    path = tmp_path / BASE / "tt/mix/440c0201_1.0_441c0202_-1.0.wav"
    samples, _ = soundfile.read(path)
    soundfile.write(path, 0.7 * samples, RATE)
    checks = premixed(root, tmp_path / "packs")
    assert not wrong(checks)
    for part in ("7 of 7 add up", "1 at a level of their own (as ", "× 0.700)"):
        assert part in checks["mix = s1 + s2"].result


@pytest.mark.parametrize(
    ("roles", "title"),
    [
        ((), "mix_clean = s1 + s2"),
        (("mix_both", "s1", "s2"), "mix_both = s1 + s2 + noise"),
        (("mix_both", "s1", "s2", "noise"), "mix_both = s1 + s2 + noise"),
        (("mix_clean", "s2"), "mix_clean = s2 + s1"),
    ],
)
def test_noise_counts_where_it_belongs(tmp_path, roles, title):
    check = premixed(write_libri2mix(tmp_path / "libri"), tmp_path / "packs", roles=roles)[title]
    assert (check.wrong, check.result[:11]) == ((), "6 of 6 add ")


SIGNALS = noise(1, 3000), noise(2, 3000)


def written(folder: Path, signals, form: str = "WAV", subtype: str = "PCM_16") -> list[Path]:
    paths = [folder / f"{number}.x" for number in range(len(signals))]
    for path, signal in zip(paths, signals, strict=True):
        soundfile.write(path, signal, RATE, subtype, format=form)
    return paths


# error: added to one sample. Rounding or cutting off three files explains three steps of the
# format.
@pytest.mark.parametrize(
    ("form", "subtype", "gain", "error", "adds_up"),
    [
        ("WAV", "PCM_16", 1.0, 0.0, True),
        ("WAV", "PCM_16", 1.0, 5 * 2.0**-15, False),
        ("WAV", "PCM_16", 0.31, 0.0, True),
        ("WAV", "PCM_16", 0.31, 5 * 2.0**-15, False),
        ("WAV", "PCM_16", -1.0, 0.0, False),
        ("WAV", "PCM_24", 1.0, 0.0, True),
        ("WAV", "PCM_24", 1.0, 9 * 2.0**-23, False),
        ("WAV", "PCM_U8", 1.0, 0.0, True),
        ("WAV", "FLOAT", 1.0, 0.0, True),
        ("WAV", "FLOAT", 1.0, 2.0**-19, False),
        ("FLAC", "PCM_16", 1.0, 0.0, True),
    ],
)
def test_rounding_is_told_from_what_does_not_add_up(tmp_path, form, subtype, gain, error, adds_up):
    mixture = gain * sum(SIGNALS)
    mixture[1234] += error
    paths = written(tmp_path, (mixture, *SIGNALS), form, subtype)
    one = add_up(paths[0], paths[1:])
    assert one.adds_up == adds_up
    if adds_up:
        assert one.gain == pytest.approx(gain, abs=1e-3)


def test_a_mixture_that_is_clipped_where_its_sources_are_not_adds_up(tmp_path):
    signals = [2.5 * signal for signal in SIGNALS]
    assert np.abs(signals).max() < 1 < np.abs(sum(signals)).max()
    paths = written(tmp_path, (sum(signals), *signals))
    one = add_up(paths[0], paths[1:])
    assert one.gain == 1
    assert one.adds_up


def test_a_mixture_that_cannot_be_read_is_wrong(tmp_path):
    """Of WSJ0-2mix as a corpus of speakers, which is made of the sources alone."""
    root = write_wsj0(tmp_path / "wsj0")
    mixture = sorted((root / "2speakers/wav8k/min/tt/mix").iterdir())[0]
    mixture.write_bytes(b"no sound")
    (line,) = wrong(corpus(root, tmp_path / "packs"))["mix = s1 + s2"]
    assert line.startswith(f"{mixture}: cannot be read as sound")


def test_a_lossy_mixture_is_not_checked_and_says_so(tmp_path):
    for role in ("mix", "s1", "s2"):
        folder = tmp_path / "set" / "tt" / role
        folder.mkdir(parents=True)
        soundfile.write(folder / "a.ogg", noise(0, 4000), RATE, format="OGG")
    result = premixed(tmp_path / "set", tmp_path / "packs")["mix = s1 + s2"].result
    assert result.startswith("0 of 1 add up; 1 not checked (as ")
    assert "its format is not exact" in result


def test_a_source_in_train_and_test_is_found_within_mixtures(tmp_path):
    root = write_wsj0(tmp_path / "wsj0")
    train, test = "22ga0102_2.1_011a0102_-2.1.wav", "44xa0102_2.1_45xa0102_-2.1.wav"
    for role, other in (("s1", "s2"), ("s2", "s1"), ("mix", "mix")):
        shutil.copy(tmp_path / BASE / "tr" / role / train, tmp_path / BASE / "tt" / other / test)
    lines = wrong(premixed(root, tmp_path / "packs"))
    assert list(lines) == ["same sound twice"]
    (line,) = lines["same sound twice"]
    assert "tr/mix/22ga0102" in line
    assert "tt/mix/44xa0102" in line
