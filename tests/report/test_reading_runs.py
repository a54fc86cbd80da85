"""Folders that are no finished runs, damaged files, output that is no report: one line each."""

import lzma
import os
import shutil
import subprocess
import sys

import pytest
from slim import ROOT, add_audio, edit, slim_run

from jaxsep.errors import ReportError
from jaxsep.report import __main__ as report
from jaxsep.report.excerpts import excerpt_folders
from jaxsep.report.runs import FILES, read_runs

TABLE = FILES[-1]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "run"
    slim_run(folder)
    return folder


@pytest.fixture
def run(original, tmp_path):
    """A run of the test's own."""
    return shutil.copytree(original, tmp_path / "run")


def content(name, text):
    return lambda run: (run / name).write_text(text)


def change(name, function):
    return lambda run: edit(run / name, function)


def without_sound(run):
    add_audio(run)
    (run / "evaluation" / "audio" / "best-1-mixture8" / "estimate2.wav").unlink()


def sound_of_another_mixture(run):
    add_audio(run)
    folder = run / "evaluation" / "audio"
    (folder / "best-1-mixture8").rename(folder / "best-1-mixture800")


def cell(column, value):
    def write(run):
        lines = [line.split(",") for line in (run / TABLE).read_text().splitlines()]
        lines[2][lines[0].index(column)] = value
        (run / TABLE).write_text("\n".join(map(",".join, lines)))

    return write


def header_alone(run):
    (run / TABLE).write_text((run / TABLE).read_text().splitlines()[0])


def compressed(written):
    def write(run):
        (run / TABLE).unlink()
        (run / f"{TABLE}.xz").write_bytes(written)

    return write


def quantile_5(summary):
    summary["test_last_epochs"]["si_sdri"]["combined"]["quantiles"]["5"] = None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "run: no such folder"),
        (lambda run: (run / "config.json").unlink(), "not a run's folder, config.json is missing"),
        (
            lambda run: (run / "summary.json").unlink(),
            "not a finished run, summary.json is missing",
        ),
        (
            change("summary.json", lambda s: s.update(num_epochs=3)),
            "summary.json is of 3 epochs and config.json asks for 4",
        ),
        (content("config.json", '{"seed": 0'), "config.json: Invalid JSON"),
        (content("config.json", "[" * 300 + "]" * 300), "recursion limit"),
        (content("config.json", '{"seed": "\\ud800"}'), "Invalid JSON"),
        (
            lambda run: (run / "summary.json").write_bytes(b"\xff\x00"),
            "summary.json: cannot be read",
        ),
        (change("config.json", lambda c: c["data"].pop("slots")), "data.slots: Field required"),
        (
            change("config.json", lambda c: c.update(seed="x")),
            "unable to parse string as an integer, not 'x'",
        ),
        (
            change("config.json", lambda c: c["train"].update(batch_size=0)),
            "train.batch_size: Input should be greater than or equal to 1, not 0",
        ),
        (
            change("summary.json", quantile_5),
            "combined.quantiles.5: Input should be a valid number, not None",
        ),
        (
            change("summary.json", lambda s: s["test"]["si_sdri"]["combined"].update(mean=0.0)),
            "the mean of summary.json is 0.0000 dB, that of evaluation/test.csv is",
        ),
        (content("metrics.jsonl", '{"kind": "val", "st'), "metrics.jsonl: Invalid JSON"),
        (content("metrics.jsonl", '{"kind": "val", "step": 1}'), "metrics.jsonl: epoch"),
        (content(TABLE, "mixture,slot\n0,0\n"), "test.csv: cannot be read (Usecols do not match"),
        (header_alone, "it must hold at least one scored source"),
        (cell("si_sdri_db", "nan"), "si_sdri_db being numbers of at most 1000"),
        (cell("slot", "one"), "test.csv: cannot be read (invalid literal for int"),
        (cell("slot", "0"), "a slot of a mixture is listed more than once"),
        (compressed(b"no xz"), "test.csv.xz: cannot be read"),
        (compressed(lzma.compress(b"0," * 2**24)), "out of proportion to its size"),
        (without_sound, "estimate2.wav: cannot be read as sound (no such file)"),
        (sound_of_another_mixture, "mixture 800 is not in the run's evaluation/test.csv"),
    ],
)
def test_runs_that_cannot_be_used(run, tmp_path, capsys, spoil, message):
    spoil(run)
    assert_refused(capsys, [run], tmp_path / "out", message)
    assert not (tmp_path / "out").exists()


def assert_refused(capsys, runs, out, message):
    """The command ends with status 2 and one line."""
    assert report.main([*map(str, runs), "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said


def test_compressed_files_are_read_as_they_were(run):
    (plain,) = read_runs([run])
    for name in FILES:
        path = run / name
        path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes()))
        path.unlink()
    (again,) = read_runs([run])
    assert (again.config, again.summary) == (plain.config, plain.summary)
    assert again.rows.equals(plain.rows)
    assert all(again.metrics[kind].equals(plain.metrics[kind]) for kind in plain.metrics)


def test_what_is_no_excerpt_is_left_alone(run):
    (run / "evaluation" / "audio" / "notes").mkdir(parents=True)
    assert excerpt_folders(*read_runs([run])) == []


def test_a_run_given_twice_is_refused(run, tmp_path, capsys):
    assert_refused(capsys, [run, run / ".." / "run"], tmp_path / "out", "given twice")


def test_output_folders_with_something_else_are_left_alone(run, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "report.md").write_text("# My own report\n")
    before = sorted(tmp_path.rglob("*"))
    for out, message in [
        (run, "run: holds config.json and no earlier report"),
        (run / "config.json", "config.json is no folder"),
        (run / "config.json" / "out", "config.json is no folder"),
        (other, "other: holds report.md and no earlier report"),
    ]:
        assert_refused(capsys, [run], out, message)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_is_full_leaves_the_earlier_report(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space")

    files = {"figures/a.png": b"1", "tables/a.csv": b"2", "report.md": b"3"}
    report.write(tmp_path, files)
    monkeypatch.setattr(report.Path, "write_bytes", full)
    with pytest.raises(ReportError, match=r"cannot be written \(No space\)"):
        report.write(tmp_path, {**files, "report.md": b"4"})
    kept = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*.*")}
    assert kept == files


def test_a_package_that_is_missing_in_a_real_process(tmp_path):
    code = (
        "import runpy, sys; sys.modules['pandas'] = None; sys.argv[1:] = ['run', '-o', 'out'];"
        "runpy.run_module('jaxsep.report', run_name='__main__')"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    expected = "error: pandas is missing: pip install 'jaxsep[report]' brings it\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
