"""No name in a table, an archive or a model leads out of its folder, waits for a pipe, or makes
code run."""

import json
import os
import sys
import tarfile

import numpy as np
import pytest
import soundfile
from archives import archive, tar
from fuzz import Path, np_noise, watched
from runs import FIELDS, network
from slim import slim_run
from trees import RATE, write

import jaxsep
from jaxsep import separate
from jaxsep.config import load as settings
from jaxsep.data.audio import audio_info, read_audio
from jaxsep.errors import ConfigError, DataError, ModelError, ReportError
from jaxsep.inference.bundle import load_bundle, save_bundle
from jaxsep.inference.inputs import find_recordings
from jaxsep.main import main
from jaxsep.open_data import unpack
from jaxsep.report import __main__ as report
from jaxsep.report.runs import read_runs
from jaxsep.training.experiment import evaluate_run, finished
from jaxsep.training.workdir import read_config

OPENED: list[str] = []


def listen(event, arguments):
    if event == "open" and isinstance(arguments[0], str | bytes):
        OPENED.append(os.fsdecode(arguments[0]))


def saved_model(folder, about):
    params = network("improved")[1]
    save_bundle(folder, params, family="improved", fields=FIELDS, sample_rate=8000, about=about)


def test_the_paths_in_a_model_are_never_opened(tmp_path):
    saved_model(tmp_path / "model", {"origin": {"file": "/etc/passwd"}, "classes": ["../../x"]})
    sys.addaudithook(listen)  # for good; it costs nothing
    OPENED.clear()
    load_bundle(tmp_path)
    names = ("model/model.json", "model/params.safetensors")
    inside = {path for path in OPENED if path.startswith(str(tmp_path))}
    assert inside == {f"{tmp_path}/{name}" for name in names}
    assert not [path for path in OPENED if "passwd" in path]


def entry(name, **fields):
    info = tarfile.TarInfo("placeholder")
    info.pax_headers = {"path": name}
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "a\0b", "."])
@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_archives(tmp_path, kind, name):
    if kind == "zip" and "\0" in name:
        pytest.skip("zipfile ends a name there")
    (tmp_path / "into").mkdir()
    path = tmp_path / f"a.{kind}"
    path.write_bytes(archive({name: b"evil"}) if kind == "zip" else tar({name: entry(name)}))
    with pytest.raises(DataError, match=rf"{path}: (holds .* relative names|is damaged)"):
        unpack(path, tmp_path / "into", "(?s)(.*)", limit=1000)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [path.name, "into"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_archives_hold_files_alone(tmp_path, kind):
    (tmp_path / "into").mkdir()
    (tmp_path / "a.tar.gz").write_bytes(tar({"x": entry("x", type=kind, linkname="/etc/passwd")}))
    with pytest.raises(DataError, match="holds 'x'; must hold regular files alone"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "into", "(?s)(.*)", limit=1000)
    assert not list((tmp_path / "into").iterdir())


HOSTILE = "<script>alert(1)</script>](javascript:alert(1)) ../../x\n# x"


def test_a_report_on_hostile_names_is_a_report(tmp_path, capsys):
    """Classes and a run's folder with names that are markup, links and paths."""
    written = {}
    for name in ("plain", "hostile"):
        place = tmp_path / name
        place.mkdir()
        folder = place / (
            "run" if name == "plain" else HOSTILE.replace("/", "|").replace("\n", " ")
        )
        slim_run(folder)
        excerpt = folder / "evaluation" / "audio" / "worst-1-mixture3"
        for stem in ("mixture", "source1-x", "estimate1", "source2-y", "estimate2"):
            write(excerpt / f"{stem}.wav", np_noise(100))
        if name == "hostile":
            table = folder / "evaluation" / "test.csv"
            table.write_text(table.read_text().replace("anna", f'"{HOSTILE}"'))
        assert report.main([str(folder), "-o", str(place / "out")]) == 0
        written[name] = {
            str(path.relative_to(place / "out")) for path in place.joinpath("out").rglob("*")
        }
        assert {path.name for path in place.iterdir()} == {folder.name, "out"}
    assert written["hostile"] == written["plain"]
    html = (tmp_path / "hostile" / "out" / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>alert" not in html
    markdown = (tmp_path / "hostile" / "out" / "report.md").read_text()
    assert "<script>" not in markdown
    assert "](javascript" not in markdown
    assert not [line for line in markdown.splitlines() if line.startswith("# x")]


@pytest.mark.parametrize("name", ["...wav", "....wav"])
def test_results_of_a_recording_lie_below_the_output(tmp_path, name):
    """The folder of '...wav' would be '..', of '....wav' it is '...'."""
    soundfile.write(tmp_path / name, np_noise(100), 8000, format="WAV")
    if name == "...wav":
        with pytest.raises(ConfigError, match="results would not lie below"):
            find_recordings([str(tmp_path / name)], tmp_path / "out")
    else:
        assert list(find_recordings([str(tmp_path / name)], tmp_path / "out")) == [Path("...")]


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def test_pipes_are_not_waited_for(tmp_path):
    saved_model(tmp_path / "model", {})
    run = tmp_path / "run"
    slim_run(run)
    config = read_config(run)
    sounds = tmp_path / "x.wav", tmp_path / "y.wav"
    for path, read, error in (
        (sounds[0], lambda: read_audio(sounds[0], RATE), DataError),
        (sounds[1], lambda: audio_info(sounds[1]), DataError),
        (tmp_path / "model" / "model.json", lambda: load_bundle(tmp_path), ModelError),
        (run / "config.json", lambda: read_config(run), ConfigError),
        (run / "summary.json", lambda: finished(run, config), ConfigError),
        (run / "evaluation" / "test.csv", lambda: read_runs([run]), ReportError),
    ):
        pipe(path)
        with pytest.raises(error, match=str(tmp_path)), watched(0):
            read()


MARK = "import pathlib\npathlib.Path({!r}).touch()\n"


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """The name of a network whose module leaves a mark when it is imported; a run's folder and its
    bundle name it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "stranger.py").write_text(MARK.format(str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield "stranger:Network"
    assert "stranger" not in sys.modules
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("where", ["config.json", "model.json"])
def test_no_file_makes_code_run(tmp_path, stranger, capsys, where):
    folder = tmp_path / "run"
    slim_run(folder, f"model.family={stranger!r}" if where == "config.json" else "seed=0")
    fields = read_config(folder).model.model_dump(include={*FIELDS})
    params = (
        network("original", **fields)[1]
        if where == "config.json"
        else {"a": np.zeros(1, np.float32)}
    )
    family = "original" if where == "config.json" else stranger
    save_bundle(folder / "model", params, family=family, fields=fields, sample_rate=8000, about={})
    assert report.main([str(folder), "-o", str(tmp_path / "out")]) == 0
    assert main(["--mode", "evaluate", "--workdir", str(folder)]) == 2
    assert stranger in capsys.readouterr().err
    with pytest.raises((ConfigError, ModelError), match="outside jaxsep"):
        evaluate_run([], folder)
    if where == "model.json":
        write(tmp_path / "a.wav", np_noise(100))
        with pytest.raises(ModelError, match="--trust stranger:Network"):
            jaxsep.load(folder)
        assert (
            separate.main(
                [str(tmp_path / "a.wav"), "--model", str(folder), "-o", str(tmp_path / "sep")]
            )
            == 2
        )
        assert separate.main(["--export", str(folder), "-o", str(tmp_path / "copy")]) == 2
        with pytest.raises(ModelError, match="--trust stranger:Network"):
            evaluate_run([], folder)


def test_a_configuration_in_a_run_s_folder_is_data(tmp_path):
    """Text that looks like Python stays text."""
    slim_run(tmp_path / "run")
    document = json.loads((tmp_path / "run" / "config.json").read_text())
    document["data"]["speech_root"] = "__import__('os').mkdir('ran')"
    document["weighting"]["gamma"] = {"{seed}": 1.0}
    (tmp_path / "run" / "config.json").write_text(json.dumps(document))
    config = read_config(tmp_path / "run")
    assert config.data.speech_root == "__import__('os').mkdir('ran')"
    assert json.loads(settings.to_json(config)) == document
    assert not os.path.exists("ran")
