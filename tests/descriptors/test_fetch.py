import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from aindex.descriptors.fetch import fetch
from aindex.errors import ExtractorError

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/absent.pt":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path == "/cut.pt" else CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("http_proxy", raising=False)
    return tmp_path / "hub" / "checkpoints"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetched_once_and_pinned(server, cache, capsys):
    path = fetch(f"{server}/model.pt")
    assert path == cache / "model.pt"
    assert path.read_bytes() == CONTENT
    assert "model.pt" in capsys.readouterr().err
    assert (cache / "model.pt.sha256").read_text() == DIGEST + "\n"
    assert fetch("http://127.0.0.1:9/model.pt") == path
    assert names(cache) == ["model.pt", "model.pt.sha256"]


def test_a_file_that_changed_after_its_pin_is_refused(server, cache):
    path = fetch(f"{server}/model.pt", progress=False)
    path.write_bytes(b"other")
    with pytest.raises(ExtractorError, match=r"remove the file to fetch it again, and model\.pt\.sha256"):
        fetch(f"{server}/model.pt")
    path.unlink()
    assert fetch(f"{server}/model.pt", progress=False).read_bytes() == CONTENT
    path.unlink()
    (cache / "model.pt.sha256").write_text("00")
    with pytest.raises(ExtractorError, match="not kept"):
        fetch(f"{server}/model.pt", progress=False)
    assert names(cache) == ["model.pt.sha256"]


def test_given_checksum(server, cache):
    with pytest.raises(ExtractorError, match=f"has SHA-256 {DIGEST}, expected 00: not kept"):
        fetch(f"{server}/model.pt", sha256="00", progress=False)
    assert names(cache) == []
    fetch(f"{server}/model.pt", sha256=DIGEST.upper(), progress=False)
    assert names(cache) == ["model.pt"]
    with pytest.raises(ExtractorError, match="remove the file"):
        fetch(f"{server}/model.pt", sha256="00")


@pytest.mark.parametrize("path", ["absent.pt", "cut.pt"])
def test_server_that_fails(path, server, cache):
    with pytest.raises(ExtractorError, match=rf"cannot fetch http://127.*{path}.*put it at"):
        fetch(f"{server}/{path}", progress=False)
    assert names(cache) == []


def test_no_network(cache):
    with pytest.raises(ExtractorError, match=r"http://127\.0\.0\.1:9/model\.pt.*give its path"):
        fetch("http://127.0.0.1:9/model.pt", progress=False)
