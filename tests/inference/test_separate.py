"""The command: any recording in, its sources out at its own rate and length, or one line."""

import functools
import json
import os
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from runs import FIELDS, network

from jaxsep import separate
from jaxsep.errors import ConfigError, DataError
from jaxsep.inference import audio_files
from jaxsep.inference.audio_files import Options, separate_file
from jaxsep.inference.bundle import save_bundle
from jaxsep.inference.chunks import Plan
from jaxsep.inference.inputs import find_recordings
from jaxsep.inference.separator import Separator

CHUNK, OVERLAP = 0.25, 0.05  # seconds: 2000 and 400 samples at 8 kHz


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A bundle of an untrained network for 8 kHz."""
    folder = tmp_path_factory.mktemp("model") / "bundle"
    _, params = network("original")
    save_bundle(folder, params, family="original", fields=FIELDS, sample_rate=8000, about={})
    return folder


@pytest.fixture(scope="module")
def load_once():
    """`load`, of which each model is loaded once, so that its compiled programs are shared."""
    return functools.cache(separate.load)


@pytest.fixture
def run(model, load_once, tmp_path, capsys, monkeypatch):
    """Run the command on inputs: (exit status, lines of output, of error). Results: tmp_path/out.

    No progress bar comes between the lines, however slow the machine is.
    """
    monkeypatch.setattr(separate, "PROGRESS_AFTER", 3600.0)
    monkeypatch.setattr(separate, "load", load_once)

    def command(*arguments, output="out", overlap=OVERLAP, chunk=CHUNK):
        flags = ["--model", model, "-o", tmp_path / output, "--chunk", chunk, "--overlap", overlap]
        try:
            status = separate.main([str(argument) for argument in (*arguments, *flags)])
        except SystemExit as stopped:  # argparse
            status = stopped.code
        printed = capsys.readouterr()
        errors = [line for line in printed.err.splitlines() if line.strip()]
        return status, printed.out.splitlines(), errors

    return command


def sound(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """[T] or [T,channels], never the same twice, below full scale."""
    rng = np.random.default_rng(seed)
    shape = (samples, channels) if channels > 1 else (samples,)
    swell = 0.2 + 0.1 * np.sin(np.arange(samples) / 700)
    return np.clip(
        rng.standard_normal(shape) * (swell[:, None] if channels > 1 else swell), -0.99, 0.99
    )


def sources(folder: Path, suffix: str = "wav") -> np.ndarray:
    """[2,T] or [2,T,channels] of a folder of results."""
    return np.stack([soundfile.read(folder / f"source{n}.{suffix}")[0] for n in (1, 2)])


def written(folder: Path) -> list[str]:
    """Every file below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate", "channels"),
    [
        ("wav", "PCM_U8", 8000, 1),
        ("wav", "PCM_24", 44100, 2),
        ("wav", "FLOAT", 8000, 3),
        ("wav", "DOUBLE", 11025, 1),
        ("flac", "PCM_16", 44100, 1),
        ("ogg", "VORBIS", 16000, 1),
        ("aiff", "PCM_16", 48000, 1),
    ],
)
def test_formats_rates_and_channels(
    run, load_once, model, tmp_path, suffix, subtype, rate, channels
):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, sound(rate + 17, channels), rate, subtype)
    status, lines, errors = run(path)
    assert (status, errors, len(lines)) == (0, [], 1)
    assert lines[0].startswith(f"{path} -> {tmp_path}/out/a: 1.00 s, 2 sources, real-time factor ")
    assert written(tmp_path / "out") == ["a/source1.wav", "a/source2.wav"]
    audio = soundfile.read(path, dtype="float32")[0]
    expected = load_once(model, chunk=CHUNK, overlap=OVERLAP, trust="")(audio, rate)
    assert np.std(expected) > 0.001
    np.testing.assert_allclose(sources(tmp_path / "out/a"), expected, atol=1e-5)
    info = soundfile.info(tmp_path / "out/a/source2.wav")
    assert (info.samplerate, info.channels, info.subtype) == (rate, 1, "FLOAT")


# At 8 kHz around a chunk of 2000 samples, and the end 3600 of the next, 1600 further. At 22.05 kHz
# 5513 are such a chunk; at 44.1 kHz 5514 become 1000 and come back as 5513.
@pytest.mark.parametrize(
    ("samples", "rate"),
    [(2, 8000), (2000, 8000), (2001, 8000), (3600, 8000), (5513, 22050), (5514, 44100)],
)
def test_lengths(run, tmp_path, samples, rate):
    soundfile.write(tmp_path / "a.wav", sound(samples), rate)
    assert run(tmp_path / "a.wav", "--keep-silent")[0] == 0
    assert soundfile.info(tmp_path / "out/a/source2.wav").frames == samples


def test_every_channel_by_itself(run, tmp_path):
    audio = sound(9000, 2)
    audio[:, 1] = 0.5 * audio[:, 0]
    soundfile.write(tmp_path / "a.wav", audio, 16000, "FLOAT")
    assert run(tmp_path / "a.wav", "--channels", "each")[0] == 0
    soundfile.write(tmp_path / "b.wav", audio[:, 0], 16000, "FLOAT")
    assert run(tmp_path / "b.wav")[0] == 0
    alone = sources(tmp_path / "out/b")
    expected = np.stack([alone, 0.5 * alone], axis=2)
    np.testing.assert_allclose(sources(tmp_path / "out/a"), expected, atol=2e-4)


@pytest.mark.parametrize(("channels", "rate"), [("mix", 8000), ("each", 44100)])
def test_consistent_sources_add_up_to_the_recording(run, tmp_path, channels, rate):
    soundfile.write(tmp_path / "a.wav", sound(rate, 2), rate, "FLOAT")
    audio = soundfile.read(tmp_path / "a.wav")[0]
    expected = audio if channels == "each" else audio.mean(axis=1)
    assert run(tmp_path / "a.wav", "--channels", channels, "--consistent")[0] == 0
    np.testing.assert_allclose(sources(tmp_path / "out/a").sum(0), expected, atol=1e-6)


@pytest.mark.parametrize("level", [0.2, 20])
def test_flac_gets_one_gain_where_it_would_clip(run, tmp_path, level):
    soundfile.write(tmp_path / "a.wav", level * sound(6000), 8000, "FLOAT")
    assert run(tmp_path / "a.wav", output="float")[0] == 0
    status, lines, _ = run(tmp_path / "a.wav", "--format", "flac")
    assert status == 0
    assert written(tmp_path / "out") == ["a/source1.flac", "a/source2.flac"]
    exact = sources(tmp_path / "float/a")
    clips = np.abs(exact).max() > 1
    assert clips == (level > 1), "or there is nothing to see"
    gain = (1 - 2.0**-15) / np.abs(exact).max() if clips else 1.0
    flac = sources(tmp_path / "out/a", "flac")
    np.testing.assert_allclose(flac, gain * exact, atol=0.51 * 2.0**-15)
    assert (f", gain {round(20 * np.log10(gain), 2):g} dB," in lines[0]) == clips
    assert soundfile.info(tmp_path / "out/a/source1.flac").subtype == "PCM_16"


def test_bad_recordings_get_a_line_and_the_others_go_on(run, tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    soundfile.write(folder / "sub/good.wav", sound(3000), 8000)
    (folder / "text.wav").write_text("not a sound")
    (folder / "void.wav").write_bytes(b"")
    soundfile.write(folder / "header.wav", np.zeros(0), 8000)
    soundfile.write(folder / "one.wav", [0.5], 8000)
    soundfile.write(folder / "zeros.wav", np.zeros(5000), 8000)
    soundfile.write(
        folder / "opposed.wav", np.stack([sound(500), -sound(500)], axis=1), 8000, "DOUBLE"
    )
    soundfile.write(folder / "brief.wav", [0.1, 0.2], 44100)
    holes = sound(5000)
    holes[4000] = np.nan
    soundfile.write(folder / "nan.wav", holes, 8000, "FLOAT")
    good = (folder / "sub/good.wav").read_bytes()
    (folder / "rate.wav").write_bytes(good[:24] + bytes(4) + good[28:])
    soundfile.write(folder / "cut.flac", sound(90000), 8000)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:60000])
    os.mkfifo(folder / "pipe.wav")
    expected = {
        "brief.wav": "2 samples at 44100 Hz are less than one at the network's 8000 Hz",
        "cut.flac": "cannot be read as sound",
        "header.wav": "holds no samples",
        "nan.wav": "holds NaN or infinite samples, the first at 0.500 s",
        "one.wav": "holds no sound, every sample is 0.5",
        "opposed.wav": "every sample is 0 (its channels averaged; --channels each keeps them)",
        "pipe.wav": "is no regular file",
        "rate.wav": "cannot be read as sound",
        "text.wav": "cannot be read as sound (Format not recognised.)",
        "void.wav": "cannot be read as sound",
        "zeros.wav": "holds no sound, every sample is 0",
        "nowhere.wav": "cannot be read as sound (no such file)",
    }
    status, lines, errors = run(folder, folder / "nowhere.wav")
    assert status == 1
    assert len(errors) == len(expected)
    for name, message in expected.items():
        assert [
            line for line in errors if line.startswith(f"{folder / name}: ") and message in line
        ], (name, errors)
    assert len(lines) == 2
    assert lines[0].startswith(f"{folder}/sub/good.wav -> ")
    assert lines[1].startswith("1 of 13 recordings separated, ")
    assert all(str(folder / name) in lines[1].split("failed: ")[1] for name in expected)
    assert written(tmp_path / "out") == ["sub/good/source1.wav", "sub/good/source2.wav"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sub"]


def test_results_are_not_overwritten(run, tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(3000), 8000)
    assert run(tmp_path / "a.wav")[0] == 0
    first = (tmp_path / "out/a/source1.wav").read_bytes()
    (tmp_path / "out/a/notes.txt").write_text("mine")
    (tmp_path / "out/a/source3.flac").write_text("of an earlier model")
    soundfile.write(tmp_path / "a.wav", sound(3000, seed=1), 8000)
    status, lines, errors = run(tmp_path / "a.wav")
    assert (status, lines) == (1, [])
    assert errors == [
        f"{tmp_path}/a.wav: {tmp_path}/out/a holds separated sources already; --force replaces them"
    ]
    assert (tmp_path / "out/a/source1.wav").read_bytes() == first
    assert run(tmp_path / "a.wav", "--force")[0] == 0
    assert (tmp_path / "out/a/source1.wav").read_bytes() != first
    assert written(tmp_path / "out") == ["a/notes.txt", "a/source1.wav", "a/source2.wav"]
    (tmp_path / "out/b").write_text("mine")
    soundfile.write(tmp_path / "b.wav", sound(3000), 8000)
    status, _, errors = run(tmp_path / "b.wav", "--force")
    assert (status, len(errors)) == (1, 1)
    assert "is a file" in errors[0]
    assert (tmp_path / "out/b").read_text() == "mine"


def test_which_recordings(tmp_path):
    folder = tmp_path / "rec"
    files = "b.wav a.WAV deep/er/c.flac .hidden.wav notes.txt out/b/source1.wav x[1].wav"
    for path in map(folder.joinpath, files.split()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def names(*inputs, output="elsewhere"):
        return [str(name) for name in find_recordings([str(i) for i in inputs], tmp_path / output)]

    assert names(folder, output="rec/out") == ["a", "b", "x[1]", "deep/er/c"]
    assert names(folder / "b.wav", folder) == ["b", "a", "x[1]", "deep/er/c", "out/b/source1"]
    assert names(folder / "*.wav") == ["b", "x[1]"]
    assert names(folder / "**/*.flac", folder / "deep") == ["c"]
    assert names(folder / "x[1].wav") == ["x[1]"]
    assert names(folder / "nowhere.wav") == ["nowhere"]
    (folder / "deep/b.flac").touch()
    for inputs, message in (
        ([folder / "b.wav", folder / "deep/b.flac"], "would both become"),
        ([folder / "*.mp3"], "no file matches this pattern"),
        ([tmp_path / "rec/out/b"], "-o .* is an INPUT too"),
    ):
        with pytest.raises(ConfigError, match=message):
            names(*inputs, output="rec/out/b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no recording in this folder"):
        names(tmp_path / "empty")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "one of INPUT, --export RUN and --import FILE.pt must be given"),
        ("a.wav --export run", "one of INPUT, --export RUN and --import FILE.pt must be given"),
        ("a.wav", "--model DIR is missing"),
        ("a.wav --model MODEL --chunk 1 --overlap 0.6", "--overlap is 0.6 s; it must be above 0"),
        ("a.wav --chunk long", "argument --chunk: invalid float value: 'long'"),
        ("a.wav --format mp3", "argument --format: invalid choice: 'mp3'"),
        ("a.wav --loud", "unrecognized arguments: --loud"),
        ("a.wav --model nowhere", "nowhere: no trained model here"),
        ("--export nowhere", "nowhere: no trained model here"),
        ("--import nowhere.pt", "nowhere.pt: cannot be read (No such file or directory)"),
    ],
)
def test_mistakes_get_one_line_and_status_two(
    model, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    words = arguments.replace("MODEL", str(model)).split()
    try:
        status = separate.main([*words, "-o", "out"])
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err.strip()
    assert (status, error.count("\n")) == (2, 0)
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_json(run, tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(4000, 2), 16000)
    status, lines, errors = run(tmp_path / "a.wav", tmp_path / "b.wav", "--json")
    assert (status, len(errors)) == (1, 1)
    good, bad = map(json.loads, lines)
    assert bad == {"input": f"{tmp_path}/b.wav", "error": errors[0]}
    assert good.keys() == {
        *("input", "output", "seconds", "sample_rate", "channels", "sources", "silent"),
        *("levels_db", "gain_db", "took", "real_time_factor"),
    }
    assert good["seconds"] == 0.25
    facts = [good[name] for name in ("sample_rate", "channels", "sources", "silent")]
    assert facts == [16000, 2, [1, 2], []]
    assert good["real_time_factor"] == pytest.approx(good["took"] / 0.25, abs=0.01)


def separate_sound(tmp_path, audio, network, **options):
    soundfile.write(tmp_path / "a.wav", audio, 8000, "FLOAT")
    separator = Separator(network, 8000, Plan(4000, 400, 100))
    folder = tmp_path / "a"
    return separate_file(separator, tmp_path / "a.wav", folder, tmp_path, Options(**options))


def test_estimates_without_a_source_are_left_out(tmp_path):
    def split(x):
        return np.stack([1e-4 * x[::-1], x, np.zeros_like(x)])

    report = separate_sound(tmp_path, sound(20000), split)
    assert (report["sources"], report["silent"]) == ([2], [1, 3])
    assert written(tmp_path / "a") == ["source2.wav"]
    kept = separate_sound(tmp_path, sound(20000), split, keep_silent=True, force=True)
    assert (kept["sources"], kept["silent"]) == ([1, 2, 3], [])
    assert kept["levels_db"][1] == pytest.approx(0, abs=0.1)
    assert kept["levels_db"][0] < audio_files.SILENT_DB
    whole = separate_sound(tmp_path, sound(20000), split, consistent=True, force=True)
    assert whole["sources"] == [1, 2, 3]


def test_a_source_that_is_heard_for_a_moment_only_is_kept(tmp_path):
    audio = 0.1 * np.random.default_rng(0).standard_normal(300_000)
    audio[[100_000, 100_008]] = 1.0

    def split(x):
        events = np.where(np.abs(x) > 6, x, 0.0)
        return np.stack([x - events, events])

    report = separate_sound(tmp_path, audio, split)
    assert report["levels_db"][1] < audio_files.SILENT_DB
    assert report["sources"] == [1, 2]


def test_one_source(tmp_path):
    report = separate_sound(tmp_path, sound(9000), lambda x: 0.5 * x[None])
    assert report["sources"] == [1]
    mixture, source = (soundfile.read(tmp_path / name)[0] for name in ("a.wav", "a/source1.wav"))
    np.testing.assert_allclose(source, mixture, atol=0.02)


def test_a_network_that_diverged(tmp_path):
    with pytest.raises(DataError, match=r"a\.wav: the network gave NaN"):
        separate_sound(tmp_path, sound(9000), lambda x: np.full((2, len(x)), np.nan, np.float32))
    assert written(tmp_path) == ["a.wav"]


def test_beyond_four_gigabytes_wav_becomes_rf64(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_files, "WAV_BYTES", 30_000)
    separate_sound(tmp_path, sound(9000), lambda x: np.stack([0.7 * x, 0.3 * x]))
    assert soundfile.info(tmp_path / "a/source1.wav").format == "RF64"
    assert soundfile.info(tmp_path / "a/source1.wav").frames == 9000


def test_flac_takes_eight_channels(tmp_path):
    with pytest.raises(DataError, match="has 9 channels; FLAC holds at most 8"):
        separate_sound(tmp_path, sound(900, 9), lambda x: x[None], channels="each", format="flac")


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory):
    """2 minutes of noise at 16 kHz."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, sound(1_920_000), 16000)
    return path


def start(model, *arguments):
    """The command in a process of its own."""
    flags = ["--model", model, "--chunk", "10", "--overlap", "1"]
    # A shell starts what it runs in the background with SIGINT ignored, and the tests may be that.
    code = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "runpy.run_module('jaxsep.separate', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *map(str, (*arguments, *flags))]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_recording_leaves_nothing_under_its_name(
    model, long_recording, tmp_path, number, status
):
    process = start(model, long_recording, "-o", tmp_path / "out")
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 1 << 16 for path in tmp_path.rglob("*.wav")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status, error
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert not (tmp_path / "out/long").exists()
    assert "Traceback" not in error
    if number == signal.SIGKILL:
        assert len(left) == 1
        assert left[0].startswith(".partial-")
        # The next time cleans up: its own folder, of the same name, goes first.
        (tmp_path / "out" / left[0] / "stale.wav").touch()
        soundfile.write(tmp_path / "long.wav", sound(3000), 8000)
        flags = ["--model", str(model), "-o", str(tmp_path / "out")]
        assert separate.main([str(tmp_path / "long.wav"), *flags]) == 0
        assert written(tmp_path / "out") == ["long/source1.wav", "long/source2.wav"]
    else:
        assert left == []


def test_a_full_disk_is_one_line_and_leaves_nothing(run, tmp_path):
    """No file of this process may grow beyond 100 kB."""
    soundfile.write(tmp_path / "short.wav", sound(8000), 8000)
    soundfile.write(tmp_path / "long.wav", sound(40_000), 8000)
    run(tmp_path / "short.wav", output="compiled")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        status, lines, errors = run(tmp_path / "long.wav", tmp_path / "short.wav")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (status, len(errors)) == (1, 1)
    assert errors[0].startswith(f"{tmp_path}/out/long: cannot be written (")
    assert lines[-1].startswith("1 of 2 recordings separated")
    assert written(tmp_path / "out") == ["short/source1.wav", "short/source2.wav"]


def test_memory_does_not_grow_with_the_recording(long_recording, tmp_path):
    """The sound alone has 7.7 MB, its two estimates 15."""
    separator = Separator(lambda x: np.stack([0.7 * x, 0.3 * x]), 8000, Plan(24_000, 4000, 1000))
    tracemalloc.start()
    try:
        separate_file(separator, long_recording, tmp_path / "a", tmp_path, Options(consistent=True))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 7_000_000
    assert soundfile.info(tmp_path / "a/source1.wav").frames == 1_920_000


def si_sdr(estimates, sources):
    """[N] dB of signals [N,T] or [T], at most 100; in NumPy: nothing to compile."""
    estimates, sources = (x - x.mean(-1, keepdims=True) for x in (estimates, sources))
    target = sources * ((estimates * sources).sum(-1) / (sources**2).sum(-1))[..., None]
    power, error = (target**2).sum(-1), ((estimates - target) ** 2).sum(-1)
    return 10 * np.log10(power / np.maximum(error, 1e-10 * power))


def clip_of(recordings_dir, pattern: str, samples: int) -> np.ndarray:
    """Recordings one after another, as many samples."""
    clips = [soundfile.read(path)[0] for path in sorted(recordings_dir.glob(pattern))[:12]]
    joined = np.concatenate([clip / clip.std() for clip in clips if clip.std() > 0])
    return np.resize(joined, samples)


def test_seams_of_half_a_minute_of_real_sound(run, recordings_dir, tmp_path):
    """Against the recording as a whole: the same sources in the same order, and no clicks."""
    samples, chunk = 240_000, 40_000
    speech = clip_of(recordings_dir, "speech/test/*/*.flac", samples)
    noise = clip_of(recordings_dir, "ESC-50/audio/5-*.wav", samples)
    soundfile.write(tmp_path / "a.wav", 0.05 * (speech + noise), 8000, "FLOAT")
    for output, seconds in (("whole", "inf"), ("chunks", 5)):
        assert run(tmp_path / "a.wav", output=output, chunk=seconds, overlap=1)[0] == 0
    whole, chunks = (sources(tmp_path / folder / "a") for folder in ("whole", "chunks"))
    assert si_sdr(chunks, whole).min() > 20
    for start in range(0, samples, chunk):
        right, wrong, reference = (
            signal[:, start : start + chunk] for signal in (chunks, chunks[::-1], whole)
        )
        assert si_sdr(right, reference).mean() > si_sdr(wrong, reference).mean()
    # Chunks end at 5 s, 9 s, …; the cross-fade lies 0.75 to 0.25 s before each end.
    ends = range(chunk, samples, chunk - 8000)
    steps = np.abs(np.diff(chunks))
    seams = np.concatenate([np.arange(end - 6100, end - 1900) for end in ends])
    assert steps[:, seams].max() <= np.delete(steps, seams, axis=1).max()
    edges = np.array([edge for end in ends for edge in (end - 6000, end - 2000)])
    near = np.concatenate([edges - 1, edges])
    assert np.median(steps[:, near]) < 3 * np.median(steps)


def test_a_recording_at_its_own_rate_is_separated_as_at_the_network_s(
    run, recordings_dir, tmp_path
):
    path = sorted((recordings_dir / "ESC-50-44k/audio").iterdir())[0]
    audio, rate = soundfile.read(path)
    assert (rate, len(audio)) == (44100, 220_500)
    soundfile.write(tmp_path / "low.wav", soxr.resample(audio, rate, 8000), 8000, "FLOAT")
    assert run(tmp_path / "low.wav", path, "--keep-silent", chunk=4, overlap=1)[0] == 0
    low, high = (sources(tmp_path / "out" / name) for name in ("low", path.stem))
    assert high.shape == (2, 220_500)
    low = soxr.resample(low.T, 8000, 44100).T
    assert si_sdr(high, np.stack([np.resize(signal, 220_500) for signal in low])).min() > 40
