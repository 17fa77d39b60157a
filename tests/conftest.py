"""Real servers for corpora behind a URL: S3 (moto, a process of its own) and HTTP with ranges; both on this machine."""

import http.server
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest

if "MEDWEAVE_GPU_TESTS" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests fork, and compare bytes: only those of `make test-gpu` see a GPU
MISSING = "a server to test against needs the dev extra (moto, flask, s3fs)"


class Web(http.server.ThreadingHTTPServer):
    """A folder over HTTP. log: (path, range) of each request. faults: what goes wrong with the next ones, a word each.

    cut: the connection breaks in the middle; busy: 503; stall: no byte for a while; forbidden: 403; whole: no ranges.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Answer, directory=str(folder)))
        self.log: list[tuple[str, str | None]] = []
        self.faults: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Answer(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.log.append((self.path, asked))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault in ("busy", "forbidden"):
            return self.send_error(503 if fault == "busy" else 403)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        if asked and fault != "whole":
            first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", asked).groups())
            data = data[first : last + 1]
        self.send_response(206 if asked and fault != "whole" else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "stall":
            time.sleep(1.5)
        self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        return None

    def log_message(self, *_: object) -> None:
        pass


class Bucket:
    """An S3 server that was started for the tests, with one bucket. url: of the bucket."""

    url = "s3://medweave-tests"

    def __init__(self, log: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        self.endpoint, self.log = f"http://127.0.0.1:{self.port}", log
        with log.open("wb") as file:
            words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
            self.process = subprocess.Popen(words, stdout=file, stderr=file)
        self._wait()

    def requests(self) -> list[str]:
        """The objects that were asked for so far, as the server's log has them."""
        return re.findall(r"GET /medweave-tests/([^ ]+)", self.log.read_text())

    def put(self, folder: Path, name: str) -> str:
        """Copy a folder into the bucket; its URL."""
        import s3fs

        files = s3fs.S3FileSystem()
        files.mkdirs(self.url, exist_ok=True)
        for path in folder.rglob("*"):
            if path.is_file():
                files.pipe_file(f"{self.url}/{name}/{path.relative_to(folder)}", path.read_bytes())
        return f"{self.url}/{name}"

    def stop(self) -> None:
        """Kill it: its port then refuses connections."""
        self.process.kill()
        self.process.wait()

    def _wait(self) -> None:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("the S3 server does not answer")


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A function of a folder to a server of it."""
    pytest.importorskip("aiohttp", reason=MISSING)
    monkeypatch.setenv("MEDWEAVE_CACHE", str(tmp_path / "medweave-cache"))
    started = []

    def serve(folder: Path) -> Web:
        started.append(Web(folder))
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return started[-1]

    yield serve
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An S3 server, with credentials for it and a cache of its own in the environment."""
    for package in ("moto", "flask", "flask_cors", "s3fs"):
        pytest.importorskip(package, reason=MISSING)
    import s3fs

    server = Bucket(tmp_path / "s3.log")
    known = {"AWS_ENDPOINT_URL": server.endpoint, "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**known, "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MEDWEAVE_CACHE", str(tmp_path / "medweave-cache"))
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
