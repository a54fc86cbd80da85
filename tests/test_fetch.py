"""One file from a local web server with real faults: cut, reset, busy, without ranges, without a length."""

import hashlib
import os

import archives
import numpy as np
import pytest

from jaxsep.data.fetch import FetchError, fetch

BODY = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with archives.Server({"file": BODY}) as served:
        yield served


def get(server, target, body=BODY, **options):
    options = {"size": len(body), "md5": hashlib.md5(body).hexdigest(), "pause": 0.001} | options
    fetch(f"{server.url}/file", target, **options)


@pytest.mark.parametrize("kind", ["cut", "reset"])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_cut_transfer_goes_on_where_it_was(server, tmp_path, capsys, kind, ranges, chunked):
    server.ranges, server.faults = ranges, {"file": [("status", 503), (kind, 100_000)]}
    server.chunked = {"file"} if chunked else set()
    get(server, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == BODY
    assert os.listdir(tmp_path) == ["target"]
    assert len(server.requests) == 3
    said = capsys.readouterr().err
    assert "/file: the server answers 503 (Service Unavailable); attempt 2 of 6 in 0.001 s" in said
    if kind == "cut":  # a reset may take with it what had not been read yet
        assert [asked for _, asked in server.requests] == ["", "", "bytes=100000-"]
        assert ("cannot resume; from the beginning" in said) is not ranges


def test_a_transfer_that_gets_further_is_not_given_up(server, tmp_path):
    server.files["file"] = big = os.urandom(9 << 20)
    server.faults["file"] = [("cut", 1 << 20)] * 8
    get(server, tmp_path / "target", big, attempts=2)
    assert (tmp_path / "target").read_bytes() == big
    assert len(server.requests) == 9


@pytest.mark.parametrize(
    ("here", "asked"),
    [
        (BODY[:1000], ["bytes=1000-"]),
        (BODY, []),  # killed before it got its name
        (BODY + b"more", [""]),
        (b"", [""]),
    ],
)
def test_what_is_here_is_used_where_it_can_be(server, tmp_path, here, asked):
    (tmp_path / "target.part").write_bytes(here)
    get(server, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == BODY
    assert [header for _, header in server.requests] == asked
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_file_without_fixed_bytes_that_is_shorter_now_begins_again(server, tmp_path, extra):
    (tmp_path / "target.part").write_bytes(bytes(len(BODY)) + extra)
    get(server, tmp_path / "target", md5=None, size=10)
    assert (tmp_path / "target").read_bytes() == BODY
    assert [header for _, header in server.requests] == [f"bytes={len(BODY) + len(extra)}-", ""]


def test_another_range_than_asked_for_is_not_taken(server, tmp_path):
    server.faults["file"] = [("cut", 1000), ("shift", 5)]
    get(server, tmp_path / "target", md5=None)
    assert (tmp_path / "target").read_bytes() == BODY
    assert [header for _, header in server.requests] == ["", "bytes=1000-", ""]


def test_a_folder_that_is_not_there(server, tmp_path):
    with pytest.raises(
        FetchError, match=r"nowhere/target.part: cannot be written \(No such file or directory\)"
    ):
        get(server, tmp_path / "nowhere" / "target")
