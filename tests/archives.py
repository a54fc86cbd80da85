"""Small archives in the form of LibriSpeech and ESC-50, and a web server with the faults that real ones have."""

import csv
import hashlib
import io
import re
import socket
import stat
import struct
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import soundfile

from jaxsep.data.open_sets import Source

# archive: place, speakers; the numbers are those of real speakers of these parts.
SPEECH = {
    "train-clean-100": ("speech/train", (19, 26)),
    "dev-clean": ("speech/val", (84,)),
    "test-clean": ("speech/test", (61,)),
}
# fold, target, category, source recording: folds 1 to 4 train, fold 5 is halved by source.
CLIPS = (
    (1, 0, "dog", "100032"),
    (4, 10, "rain", "160999"),
    (5, 0, "dog", "203128"),
    (5, 0, "dog", "203129"),
)


def flac(seed: int, seconds: float = 2.0) -> bytes:
    """White noise at 16 kHz, which does not compress: about 30 kB a second."""
    return _sound(
        np.random.default_rng(seed).uniform(-1, 1, round(seconds * 16_000)), 16_000, "FLAC"
    )


def clip(seed: int, samples: int = 220_500, rate: int = 44_100) -> bytes:
    """A tone of period 10 * (seed + 2) samples, which compresses well."""
    return _sound(0.5 * np.sin(2 * np.pi * np.arange(samples) / (10 * (seed + 2))), rate, "WAV")


def speech_members(subset: str, speakers: tuple[int, ...]) -> dict[str, bytes]:
    """Two utterances in two chapters of each speaker, with transcript and licence as published."""
    members = {"LibriSpeech/LICENSE.TXT": b"CC BY 4.0"}
    for speaker in speakers:
        for chapter in (198, 227):
            stem = f"LibriSpeech/{subset}/{speaker}/{chapter}/{speaker}-{chapter}"
            members[f"{stem}.trans.txt"] = b"WORDS"
            members[f"{stem}-0000.flac"] = flac(1000 * speaker + chapter)
    return members


def esc50_members(clips=CLIPS) -> dict[str, bytes]:
    """ESC-50-master/audio/*.wav, meta/esc50.csv and LICENSE."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
    members = {"ESC-50-master/LICENSE": b"CC BY-NC 3.0"}
    for seed, (fold, target, category, source) in enumerate(clips):
        name = f"{fold}-{source}-A-{target}.wav"
        writer.writerow([name, fold, target, category, "True", source, "A"])
        members[f"ESC-50-master/audio/{name}"] = clip(seed)
    return members | {"ESC-50-master/meta/esc50.csv": table.getvalue().encode()}


def tar(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    """A .tar.gz; a TarInfo instead of contents goes in as it is (links)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as file:
        for name, contents in members.items():
            if isinstance(contents, tarfile.TarInfo):
                file.addfile(contents)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            file.addfile(info, io.BytesIO(contents))
    return buffer.getvalue()


def archive(members: dict[str, bytes], link: str = "") -> bytes:
    """A zip file; the member named by `link` is a symbolic link to its contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, contents in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = ((stat.S_IFLNK if name == link else stat.S_IFREG) | 0o644) << 16
            file.writestr(info, contents, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def published() -> dict[str, bytes]:
    """All four archives: file name -> bytes."""
    files = {
        f"{subset}.tar.gz": tar(speech_members(subset, speakers))
        for subset, (_, speakers) in SPEECH.items()
    }
    return files | {"ESC-50-master.zip": archive(esc50_members())}


def sources(files: dict[str, bytes], url: str) -> list[Source]:
    """The table of jaxsep.data.open_sets for these files at this address."""
    table = []
    for name, contents in files.items():
        subset = name.removesuffix(".tar.gz")
        speech = SPEECH.get(subset)
        table.append(
            Source(
                name=name,
                url=f"{url}/{name}",
                archive_bytes=len(contents) if speech else 1000,
                md5=hashlib.md5(contents).hexdigest() if speech else None,
                inside=f"LibriSpeech/{subset}" if speech else "ESC-50-master",
                place=speech[0] if speech else "ESC-50",
                recordings=2 * len(speech[1]) if speech else len(CLIPS),
                seconds=20,
                unpacked_bytes=1_000_000,
                licence="CC BY",
            )
        )
    return table


class Server(ThreadingHTTPServer):
    """Serves `files` on 127.0.0.1; a context manager.

    faults[name] is a list of what goes wrong with the next requests for a file, one each (None: nothing):
    ("cut", n): the connection ends after n bytes. ("reset", n): it is reset. ("hang", n): nothing follows until
    `release` is set. ("status", code): an error. ("shift", n): a range n bytes further than asked for.

    ranges: False if Range is ignored. chunked: files sent without a length. redirects: name -> name.
    requests: (name, Range or "") of all.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.faults: dict[str, list] = {}
        self.ranges, self.chunked, self.redirects = True, set(), {}
        self.requests: list[tuple[str, str]] = []
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_):
        self.release.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        try:
            self._answer(self.path.removeprefix("/"))
        except ConnectionError:  # the other side was killed
            self.close_connection = True

    def log_message(self, *_):
        pass

    def _answer(self, name):
        server = self.server
        asked = self.headers.get("Range", "")
        server.requests.append((name, asked))
        queue = server.faults.get(name)
        kind, limit = (queue.pop(0) if queue else None) or (None, None)
        if name in server.redirects:
            self.send_response(302)
            self.send_header("Location", f"{server.url}/{server.redirects[name]}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if kind == "status" or name not in server.files:
            self.send_error(limit or 404)
            return
        body, start = server.files[name], 0
        if server.ranges and (found := re.fullmatch(r"bytes=(\d+)-", asked)):
            start = int(found[1])
            if start >= len(body):
                self.send_error(416)
                return
            start += limit if kind == "shift" else 0
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        chunked = name in server.chunked
        self.send_header(
            *(
                ("Transfer-Encoding", "chunked")
                if chunked
                else ("Content-Length", str(len(body) - start))
            )
        )
        self.end_headers()
        sent = body[start:] if kind == "shift" else body[start:][:limit]
        self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) if chunked else sent)
        self.wfile.flush()
        self._break(kind)
        if chunked and kind is None:
            self.wfile.write(b"0\r\n\r\n")

    def _break(self, kind):
        if kind == "hang":
            self.server.release.wait(60)
        if kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Closed here, because the server's own way sends the ordinary end of a connection first.
            self.rfile.close()
            self.connection.close()
        if kind is not None:
            self.close_connection = True


def _sound(samples: np.ndarray, rate: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype="PCM_16")
    return buffer.getvalue()
