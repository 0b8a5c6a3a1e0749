"""Two runs at once: the second one waits, finds all made, and nothing is torn or left behind."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from corpus_layouts import ROOT, rows_of

import corpus  # isort: skip
from espnet_part import filtering, formatting, manifest_writer, mt_rows, publish  # isort: skip
from espnet_part.datadir import Row, write_datadir  # isort: skip
from espnet_part.publish import lock, lock_folder, make_once  # isort: skip


def at_once(work, entered, monkeypatch):
    """Runs `work` twice at the same time: the second begins while the first is within it."""
    hold = fcntl.flock
    waiting = threading.Event()

    def told(file, operation):
        if not operation & fcntl.LOCK_NB:
            waiting.set()
        return hold(file, operation)

    monkeypatch.setattr(publish.fcntl, "flock", told)
    with ThreadPoolExecutor(2) as pool:
        entered.go = waiting
        one = pool.submit(work)
        assert entered.wait(5)
        two = pool.submit(work)
        return one.result(10), two.result(10)


class Entered(threading.Event):
    """Set by the work when it is within; it then goes on only when another one waits."""

    go = None
    calls = 0

    def pause(self):
        self.calls += 1
        self.set()
        assert self.go.wait(5), "the second run did not wait for the first"


def text_row(i, task="mt"):
    return Row(f"{i:03d}", task, "en", "de", f"satz {i}", source=f"sentence {i}")


def test_a_corpus_written_twice_at_once(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(corpus.sort_rows, "__defaults__", (7,))
    entered = Entered()

    def read():
        for i in range(40, 0, -1):
            if i == 20:
                entered.pause()
            yield text_row(i)

    made = corpus.CorpusSet("train", (), read)
    one, two = at_once(lambda: corpus.write_set(tmp_path, made, 1), entered, monkeypatch)
    assert one == two and one["kept"] == 40 and entered.calls == 1
    assert list(rows_of(tmp_path / "train")) == [f"{i:03d}" for i in range(1, 41)]
    assert (tmp_path / "train/skipped.tsv").read_bytes() == b""
    (said,) = [text for text in caplog.messages if "waits" in text]
    assert said == (
        f"{tmp_path / 'train'}: waits for another run (process {os.getpid()} on "
        f"{publish.socket.gethostname()}) to end"
    )
    assert not [path.name for path in tmp_path.rglob(".*") if path.name != ".stamp.json"]


class Tokenizer:
    name_or_path = "made"

    def get_vocab(self):
        return {"a": 0}

    def __call__(self, texts, **options):
        return SimpleNamespace(input_ids=[[0] for _ in texts])


def manifest(data_dir, out):
    return {"kept": manifest_writer.write_manifest(data_dir, out, Tokenizer())["rows"]}


LIMITS = filtering.Limits(0.1, 30)
STEPS = {
    "filter": (filtering, "write_kept", lambda a, b: filtering.filter_datadir(a, b, LIMITS)),
    "format": (formatting, "make_staging", formatting.format_datadir),
    "manifest": (manifest_writer, "_write", manifest),
    "mt": (mt_rows, "_mt_rows", mt_rows.derive_mt),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_stage_run_twice_at_once(tmp_path, monkeypatch, name):
    module, inner, step = STEPS[name]
    row = text_row(1)
    if name == "mt":
        row = Row("a", "st", "en", "de", "hallo", "a.wav", source="hello")
    write_datadir(tmp_path / "in", [row])
    entered, was = Entered(), getattr(module, inner)

    def paused(*args):
        entered.pause()
        return was(*args)

    monkeypatch.setattr(module, inner, paused)
    one, two = at_once(lambda: step(tmp_path / "in", tmp_path / "out"), entered, monkeypatch)
    assert one == two and one["kept"] == 1 and entered.calls == 1
    assert not [path.name for path in (tmp_path / "out").glob(".*") if path.name != ".stamp.json"]


def test_a_run_that_fails_leaves_the_folder_to_the_one_that_waits(tmp_path, monkeypatch):
    entered = Entered()

    def make():
        if not entered.calls:
            entered.pause()
            raise ValueError("the disk is full")
        return {"rows": 1}

    def work():
        try:
            return make_once(tmp_path / "a", {}, (), make)
        except ValueError as err:
            return str(err)

    assert at_once(work, entered, monkeypatch) == ("the disk is full", {"rows": 1})


def test_the_lock_of_a_killed_run_is_in_nobodys_way(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    code = (
        "import os, signal, sys; from pathlib import Path; import espnet_part.publish as p\n"
        "with p.lock_folder(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], env=environment)
    assert done.returncode == -signal.SIGKILL and (tmp_path / "a/.lock").exists()
    with lock_folder(tmp_path / "a"):
        assert f"process {os.getpid()} on " in (tmp_path / "a/.lock").read_text()
    assert not caplog.messages and not (tmp_path / "a/.lock").exists()


def test_a_folder_that_is_up_to_date_need_not_be_writable(tmp_path, monkeypatch):
    assert make_once(tmp_path / "a", {"v": 1}, (), lambda: {"rows": 1}) == {"rows": 1}

    opened = publish.Path.open

    def read_only(path, mode="r", **options):
        if mode != "r":
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, mode, **options)

    monkeypatch.setattr(publish.Path, "open", read_only)
    assert make_once(tmp_path / "a", {"v": 1}, (), lambda: pytest.fail()) == {"rows": 1}
    message = r"a: found no folder that can be written \(Read-only file system\), expected one"
    with pytest.raises(ValueError, match=message):
        make_once(tmp_path / "a", {"v": 2}, (), lambda: pytest.fail())


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(ValueError, match=r"a: found no folder that can be written \(File exists"):
        make_once(tmp_path / "a", {}, (), dict)


def test_file_systems_without_locks_and_with_broken_ones(tmp_path, monkeypatch, caplog):
    def fails(code):
        def flock(file, operation):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(publish.fcntl, "flock", flock)

    fails(errno.ENOSYS)
    assert make_once(tmp_path / "a", {}, (), lambda: {"rows": 1}) == {"rows": 1}
    (said,) = caplog.messages
    assert "a: no locks on this file system (Function not implemented)" in said
    fails(errno.EIO)
    with pytest.raises(ValueError, match=r"\.lock: cannot be locked \(Input/output error\)"):
        make_once(tmp_path / "b", {}, (), dict)


def test_a_lock_that_nobody_waits_for(tmp_path):
    with (
        lock(tmp_path / "x", "part 1"),
        pytest.raises(ValueError, match="x: another process is working on part 1; wait for it"),
        lock(tmp_path / "x", "part 1"),
    ):
        pass
