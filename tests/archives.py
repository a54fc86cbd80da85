"""Small archives in the form of LibriSpeech and ESC-50, and a web server that can fail."""

import csv
import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import soundfile

from jaxsep.open_data import SOURCES, Source

# archive: place, speakers; the numbers are those of real speakers of these parts.
SPEECH = {
    "train-clean-100": ("speech/train", (19, 26)),
    "dev-clean": ("speech/val", (84,)),
    "test-clean": ("speech/test", (61,)),
}
PUBLISHED = {source.name: source for source in SOURCES}
# fold, target, category, source recording: folds 1 to 4 train, fold 5 is halved by source.
CLIPS = (
    (1, 0, "dog", "100032"),
    (4, 10, "rain", "160999"),
    (5, 0, "dog", "203128"),
    (5, 0, "dog", "203129"),
)


def flac(seed: int) -> bytes:
    """A second of white noise at 16 kHz, which does not compress: about 30 kB."""
    return _sound(np.random.default_rng(seed).uniform(-1, 1, 16_000), 16_000, "FLAC")


def clip(seed: int) -> bytes:
    """Two seconds of a tone of period 10 * (seed + 2) samples, which compress well: 176 kB."""
    return _sound(0.5 * np.sin(2 * np.pi * np.arange(88_200) / (10 * (seed + 2))), 44_100, "WAV")


def _sound(samples: np.ndarray, rate: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype="PCM_16")
    return buffer.getvalue()


def speech_members(subset: str, speakers: tuple[int, ...]) -> dict[str, bytes]:
    """Two utterances in two chapters of each speaker, with transcript and licence as published."""
    members = {"LibriSpeech/LICENSE.TXT": b"CC BY 4.0"}
    for speaker in speakers:
        for chapter in (198, 227):
            stem = f"LibriSpeech/{subset}/{speaker}/{chapter}/{speaker}-{chapter}"
            members[f"{stem}.trans.txt"] = b"WORDS"
            members[f"{stem}-0000.flac"] = flac(1000 * speaker + chapter)
    return members


def esc50_members() -> dict[str, bytes]:
    """ESC-50-master/audio/*.wav, meta/esc50.csv and LICENSE."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
    members = {"ESC-50-master/LICENSE": b"CC BY-NC 3.0"}
    for seed, (fold, target, category, source) in enumerate(CLIPS):
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


def archive(members: dict[str, bytes]) -> bytes:
    """A zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, contents in members.items():
            file.writestr(name, contents)
    return buffer.getvalue()


def published() -> dict[str, bytes]:
    """All four archives: file name -> bytes."""
    files = {
        f"{subset}.tar.gz": tar(speech_members(subset, speakers))
        for subset, (_, speakers) in SPEECH.items()
    }
    return files | {"ESC-50-master.zip": archive(esc50_members())}


def sources(files: dict[str, bytes], url: str) -> list[Source]:
    """The table of jaxsep.open_data for these files at this address."""
    table = []
    for name, contents in files.items():
        subset = name.removesuffix(".tar.gz")
        place, speakers = SPEECH.get(subset, ("ESC-50", ()))
        table.append(
            Source(
                name=name,
                url=f"{url}/{name}",
                archive_bytes=len(contents) if speakers else 1000,
                md5=hashlib.md5(contents).hexdigest() if speakers else None,
                wanted=PUBLISHED[name].wanted,
                place=place,
                recordings=2 * len(speakers) or len(CLIPS),
                seconds=20,
                unpacked_bytes=1_000_000,
                licence="CC BY",
            )
        )
    return table


class Server(ThreadingHTTPServer):
    """Serves `files` on 127.0.0.1; a context manager.

    faults[name] is a list of what goes wrong with the next requests for a file, one each:
    ("cut", n): the connection ends after n bytes. ("hang", n): nothing follows until the end of the
    test. ("status", code): an error.
    chunked: files sent without a length. redirects: name -> name. requests: the names of all.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.faults: dict[str, list] = {}
        self.chunked, self.redirects = set(), {}
        self.requests: list[str] = []
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
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
        server.requests.append(name)
        queue = server.faults.get(name)
        kind, limit = queue.pop(0) if queue else (None, None)
        if name in server.redirects:
            self.send_response(302)
            self.send_header("Location", f"{server.url}/{server.redirects[name]}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if kind == "status" or name not in server.files:
            self.send_error(limit or 404)
            return
        body = server.files[name]
        self.send_response(200)
        if name in server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body[:limit]
        self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) if name in server.chunked else sent)
        self.wfile.flush()
        if kind == "hang":
            server.release.wait(60)
        if kind is not None:
            self.close_connection = True
        elif name in server.chunked:
            self.wfile.write(b"0\r\n\r\n")
