"""Downloads and archives: a server on this machine that breaks off, does not resume, refuses."""

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from corpus_layouts import ROOT, state

import fetch  # isort: skip
from fetch import Archive, download, fetch_archives, unpack  # isort: skip

DATA = bytes(range(256)) * 4000


class Server:
    """Serves `files` (name -> bytes); what goes wrong is set by the test.

    Attributes:
        asked: (name, Range) of each request so far.
        break_after: Bytes after which the next answers break off, one for each answer.
        resumes: Whether Range is understood.
        chunked: Whether the length is left out and the body is sent in chunks.
    """

    def __init__(self):
        self.files, self.asked, self.break_after = {}, [], []
        self.resumes, self.chunked = True, False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, to):
        name, wanted = to.path.lstrip("/"), to.headers.get("Range")
        self.asked.append((name, wanted))
        data = self.files.get(name)
        if data is None:
            to.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.resumes else 0
        if start and start >= len(data):
            to.send_response(416)
            to.send_header("Content-Range", f"bytes */{len(data)}")
            to.send_header("Content-Length", "0")
            to.end_headers()
            return
        to.send_response(206 if start else 200)
        if start:
            to.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        body = data[start:]
        if self.chunked:
            to.send_header("Transfer-Encoding", "chunked")
        else:
            to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        broken = self.break_after.pop(0) if self.break_after else None
        if self.chunked:
            to.wfile.write(b"%x\r\n" % len(body))
        to.wfile.write(body[:broken])
        if broken is not None:
            to.close_connection = True
        elif self.chunked:
            to.wfile.write(b"\r\n0\r\n\r\n")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "PAUSE_SEC", 0.0)
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def md5(data):
    return hashlib.md5(data).hexdigest()


def test_a_download_goes_on_where_it_broke_off(server, tmp_path, capsys):
    server.files["x.bin"] = DATA
    server.break_after = [1000, 500]
    download(f"{server.url}/x.bin", tmp_path / "x", hashlib.sha256(DATA).hexdigest())
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.asked == [("x.bin", None), ("x.bin", "bytes=1000-"), ("x.bin", "bytes=1500-")]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert "broke off after 1,000 of 1,024,000 bytes" in capsys.readouterr().out


@pytest.mark.parametrize("chunked", [False, True])
def test_tries_that_bring_nothing_end_it_and_the_next_call_goes_on(server, tmp_path, chunked):
    server.files["x.bin"], server.chunked = DATA, chunked
    server.break_after = [1000] + [0] * fetch.TRIES
    with pytest.raises(ValueError, match=r"could not fetch .*/x.bin \(.*Call again to go on"):
        download(f"{server.url}/x.bin", tmp_path / "x")
    assert len(server.asked) == 1 + fetch.TRIES
    assert (tmp_path / "x.part").read_bytes() == DATA[:1000] and not (tmp_path / "x").exists()
    download(f"{server.url}/x.bin", tmp_path / "x")
    assert server.asked[-1] == ("x.bin", "bytes=1000-")
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_server_that_does_not_resume_sends_all_of_it(server, tmp_path):
    server.files["x.bin"], server.resumes = DATA, False
    (tmp_path / "x.part").write_bytes(b"start of another kind")
    download(f"{server.url}/x.bin", tmp_path / "x", md5(DATA))
    assert (tmp_path / "x").read_bytes() == DATA


def test_what_is_there_already(server, tmp_path):
    server.files["x.bin"] = DATA
    (tmp_path / "x.part").write_bytes(DATA)  # killed before it was renamed
    download(f"{server.url}/x.bin", tmp_path / "x", md5(DATA).upper())
    assert (tmp_path / "x").read_bytes() == DATA
    # The publisher has put a shorter file there: what is left of the longer one is no part of it.
    server.files["x.bin"] = DATA[::-1][:100]
    (tmp_path / "y.part").write_bytes(DATA)
    download(f"{server.url}/x.bin", tmp_path / "y")
    assert (tmp_path / "y").read_bytes() == DATA[::-1][:100]


def test_refused_and_damaged(server, tmp_path):
    server.files["x.bin"] = DATA
    with pytest.raises(ValueError, match="could not fetch .*404.*put it at .*y"):
        download(f"{server.url}/no.bin", tmp_path / "y")
    assert len(server.asked) == 1  # asking again does not help
    with pytest.raises(ValueError, match=f"checksum {md5(DATA)}, expected 0000.*it is deleted"):
        download(f"{server.url}/x.bin", tmp_path / "x", "0" * 32)
    assert not list(tmp_path.iterdir())
    server.http.server_close()  # nobody listens any more
    with pytest.raises(ValueError, match="could not fetch .*without a network, fetch it elsewhere"):
        download(f"{server.url}/x.bin", tmp_path / "x")


def tar_of(*members, mode="w:gz"):
    """Bytes of a tar of (name, content) or TarInfo."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for member in members:
            info, content = member, b""
            if isinstance(member, tuple):
                info, content = tarfile.TarInfo(member[0]), member[1]
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_archives_are_fetched_unpacked_and_deleted_once(server, tmp_path):
    server.files["one.tar.gz"] = tar_of(("C/README", b"r1"), ("C/one/a.wav", b"a"))
    server.files["two.tar"] = tar_of(("C/README", b"r2"), ("C/two/b.wav", b"b"), mode="w")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("c.wav", b"c")
    server.files["three.zip"] = buffer.getvalue()
    archives = [
        Archive(f"{server.url}/one.tar.gz", "C/one", md5(server.files["one.tar.gz"])),
        Archive(f"{server.url}/two.tar", "C/two"),
        Archive(f"{server.url}/three.zip", "C/three/c.wav", into="C/three"),
    ]
    fetch_archives(archives, tmp_path / "c")
    found = {name: content for name, (content, _) in state(tmp_path / "c").items()}
    assert found == {
        "C/README": b"r1",  # the first one stays
        "C/one/a.wav": b"a",
        "C/two/b.wav": b"b",
        "C/three/c.wav": b"c",
    }
    before, asked = state(tmp_path / "c"), len(server.asked)
    fetch_archives(archives, tmp_path / "c")
    assert state(tmp_path / "c") == before and len(server.asked) == asked
    # One that was put there by hand is not fetched, but checked, and kept.
    (tmp_path / "d").mkdir()
    (tmp_path / "d/two.tar").write_bytes(server.files["two.tar"])
    fetch_archives(archives[1:2], tmp_path / "d")
    assert len(server.asked) == asked and (tmp_path / "d/two.tar").exists()
    (tmp_path / "d/one.tar.gz").write_bytes(server.files["two.tar"])
    with pytest.raises(ValueError, match="one.tar.gz: checksum"):
        fetch_archives(archives[:1], tmp_path / "d")
    assert not (tmp_path / "d/C/one").exists()


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"x"),
        ("C/one/../../../evil", b"x"),
        link("C/one/out", "../../../evil"),
        link("C/one/out", "/etc"),
        link("C/one/hard", "../../../outside", tarfile.LNKTYPE),
    ],
)
def test_nothing_lands_outside(tmp_path, member):
    (tmp_path / "outside").write_text("mine")
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "x.tar.gz").write_bytes(tar_of(("C/one/a", b"a"), member))
    with pytest.raises(ValueError, match="x.tar.gz.*"):
        unpack(folder / "x.tar.gz", folder, Archive("http://h/x.tar.gz", "C/one"))
    assert [path.name for path in folder.iterdir()] == ["x.tar.gz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "outside"]
    assert (tmp_path / "outside").read_text() == "mine"


def test_absolute_names_land_inside(tmp_path):
    (tmp_path / "c").mkdir()
    evil = tmp_path / "evil"
    path = tmp_path / "c/x.tar"
    path.write_bytes(tar_of(("C/one/a", b"a"), (str(evil), b"x"), mode="w"))
    unpack(path, tmp_path / "c", Archive("http://h/x.tar", "C/one"))
    assert not evil.exists() and (tmp_path / "c/C/one/a").read_bytes() == b"a"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name in ("C/two/b", "../evil", str(evil)):
            zipped.writestr(name, b"b")
    (tmp_path / "c/y.zip").write_bytes(buffer.getvalue())
    unpack(tmp_path / "c/y.zip", tmp_path / "c", Archive("http://h/y.zip", "C/two"))
    assert not evil.exists() and (tmp_path / "c/C/two/b").read_bytes() == b"b"


def test_links_within_an_archive_still_hold(tmp_path):
    (tmp_path / "x.tar").write_bytes(
        tar_of(("C/one/a", b"a"), link("C/one/b", "a"), link("C/latest", "one"), mode="w")
    )
    unpack(tmp_path / "x.tar", tmp_path, Archive("http://h/x.tar", "C/one"))
    assert (tmp_path / "C/one/b").read_bytes() == (tmp_path / "C/latest/a").read_bytes() == b"a"


def damaged(data):
    middle = len(data) // 2
    return data[:middle] + bytes(b ^ 255 for b in data[middle : middle + 50]) + data[middle + 50 :]


_NOISE = hashlib.shake_128(b"noise").digest(50_000)


@pytest.mark.parametrize(
    "data",
    [
        b"no archive",
        b"",
        tar_of(("C/one/a", _NOISE))[:30_000],
        damaged(tar_of(("C/one/a", _NOISE))),
        damaged(tar_of(("C/one/a", _NOISE), mode="w:xz")),
        damaged(tar_of(("C/one/a", _NOISE), mode="w:bz2")),
        tar_of(("C/one/a", _NOISE), mode="w")[:30_000],
        tar_of(("C/other/a", b"x")),
    ],
)
def test_damaged_archives_leave_nothing(tmp_path, data):
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(ValueError, match="delete it and fetch again"):
        unpack(tmp_path / "x.tar", tmp_path, Archive("http://h/x.tar", "C/one"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_a_full_disk_is_no_damage(tmp_path, monkeypatch):
    (tmp_path / "x.tar").write_bytes(tar_of(("C/one/a", b"a")))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(ValueError, match="could not unpack .*No space left") as error:
        unpack(tmp_path / "x.tar", tmp_path, Archive("http://h/x.tar", "C/one"))
    assert "damaged" not in str(error.value) and "delete" not in str(error.value)


def test_killed_while_unpacking(tmp_path):
    path = tmp_path / "x.tar"
    members = [(f"C/one/{i}", b"x" * 2000) for i in range(300)]
    path.write_bytes(tar_of(*members, ("C/README", b"r"), mode="w"))
    code = f"""
import os, signal, sys, tarfile
sys.path.insert(0, {str(ROOT / "local")!r})
from pathlib import Path
import fetch
def killing(*args, **kwargs):
    if sys.argv[1] in str(args[-1]): os.kill(os.getpid(), signal.SIGKILL)
    return moved(*args, **kwargs)
moved = os.replace
if sys.argv[1]: os.replace = killing
else: tarfile.TarFile.makefile = killing
fetch.unpack(Path("x.tar"), Path("."), fetch.Archive("http://h/x.tar", "C/one"))
"""
    for at in ("", "README", "one"):  # while it unpacks, before and after the first move
        done = subprocess.run([sys.executable, "-c", code, at], cwd=tmp_path, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (tmp_path / "C/one").exists()
    unpack(path, tmp_path, Archive("http://h/x.tar", "C/one"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["C", "x.tar"]
    assert len(os.listdir(tmp_path / "C/one")) == 300


def test_progress_says_rate_and_time_left(server, tmp_path, capsys, monkeypatch):
    server.files["x.bin"] = DATA
    now = iter(range(10_000))
    monkeypatch.setattr(fetch.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(fetch, "BLOCK", 256_000)
    download(f"{server.url}/x.bin", tmp_path / "x")
    lines = capsys.readouterr().out.split("\r")
    assert any(re.match(r"0\.\d of 1\.0 MB, 0\.\d MB/s, \d+ s left", line) for line in lines)
