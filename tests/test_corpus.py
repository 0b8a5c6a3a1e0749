"""The frame of the corpora's scripts: rows in order, in bounded memory, all of a set or nothing."""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from corpus_layouts import ROOT, make_audio, rows_of, skipped, state

import corpus  # isort: skip
import sorted_rows  # isort: skip
from corpus import Bad, CorpusSet, count_lines, write_set, write_sets  # isort: skip
from espnet_part.datadir import Row  # isort: skip
from sorted_rows import sort_rows  # isort: skip


def mt(name, target="hallo", source="hello"):
    return Row(name, "mt", "en", "de", target, source=source)


def shuffled(count, seed=0):
    rows = [(mt(f"{i:06d}", f"satz {i}"), i) for i in range(count)]
    random.Random(seed).shuffle(rows)
    return rows


def leftovers(folder):
    return sorted(path.name for path in Path(folder).rglob("*") if path.name.startswith(".s"))


# Sorting


@pytest.mark.parametrize("run_rows", [7, 10, 100, 1000])
@pytest.mark.parametrize("merged", [2, 3, 32])
def test_order_whatever_the_size_of_runs(tmp_path, monkeypatch, run_rows, merged):
    monkeypatch.setattr(sorted_rows, "MERGED_RUNS", merged)
    rows = shuffled(100)
    assert list(sort_rows(iter(rows), tmp_path, run_rows)) == sorted(rows, key=lambda r: r[1])
    assert not leftovers(tmp_path)


def test_order_is_that_of_bytes_and_the_first_of_equal_ids_stays_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sorted_rows, "MERGED_RUNS", 2)
    names = ["b", "é", "B", "\U0001f600", "\uffee", "a-b", "a"] * 3
    rows = [(mt(name), number) for number, name in enumerate(names)]
    want = sorted(rows, key=lambda row: (row[0].utt_id.encode(), row[1]))
    for run_rows in (2, 3, 4, 100):
        assert list(sort_rows(iter(rows), tmp_path, run_rows)) == want


def test_all_fields_survive_the_disk(tmp_path):
    row = Row("b", "st", "en", "de", "t", "a.wav", 0.5, 1.25, "s", "anna")
    rows = [(row, 16000), (mt("a"), 0)]
    assert list(sort_rows(iter(rows), tmp_path, 1)) == [(mt("a"), 0), (row, 16000)]


def test_few_files_are_open_and_few_rows_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sorted_rows, "MERGED_RUNS", 4)
    monkeypatch.setattr(sorted_rows, "_PIECE_ROWS", 10)

    def rows(count):
        return ((mt(f"{i * 7919 % count:06d}", "x" * 100), i) for i in range(count))

    def peak(count):
        tracemalloc.start()
        files = 0
        for number, _ in enumerate(sort_rows(rows(count), tmp_path, 25)):
            if number % 500 == 0:
                files = max(files, len(list((tmp_path / ".sorting").iterdir())))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size, files

    (small, _), (big, files) = peak(400), peak(2400)
    assert big < 1.5 * small
    assert files < 4 * 4  # 160 runs on the way, 3 or fewer of each size at the end


# Sets


def one_set(rows, name="train", **more):
    return CorpusSet(name, (), lambda: iter(rows), **more)


def test_audio_that_came_later_is_seen(tmp_path):
    rows = [Row(f"{i}-asr", "asr", "en", "en", "x", str(tmp_path / f"{i}.wav")) for i in "ab"]
    make_audio(tmp_path / "a.wav")
    made = [one_set(rows)]
    assert write_set(tmp_path / "out", made[0], 1)["skipped"] == {"missing file": 1}
    before = state(tmp_path / "out")
    write_set(tmp_path / "out", made[0], 1)
    assert state(tmp_path / "out") == before
    make_audio(tmp_path / "b.wav")
    assert write_set(tmp_path / "out", made[0], 1) == {
        "rows": 2,
        "kept": 2,
        "hours": pytest.approx(1 / 3600, abs=1e-4),
        "skipped": {},
    }


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "segment"])
@pytest.mark.parametrize("name", ["b.wav", "b: 1.wav"])
def test_damaged_audio_that_was_replaced_is_seen(tmp_path, caplog, damage, name):
    caplog.set_level("INFO")
    path = make_audio(tmp_path / name)
    whole = path.read_bytes()
    end = 0.8 if damage == "segment" else None
    path.write_bytes({"empty": b"", "cut": whole[:5000], "text": b"<html>"}.get(damage, whole))
    audio = str(make_audio(tmp_path / "a.wav"))
    rows = [
        Row(f"{i}-asr", "asr", "en", "en", "x", file, end_sec=last)
        for i, file, last in (("a", audio, None), ("b", str(path), end), ("b2", str(path), end))
    ]
    write_set(tmp_path / "out", one_set(rows), 1)
    os.utime(path, ns=(10**18, 10**18))  # old by its time, as archives unpack
    write_set(tmp_path / "out", one_set(rows), 1)
    before = state(tmp_path / "out")
    assert sum(write_set(tmp_path / "out", one_set(rows), 1)["skipped"].values()) == 2
    assert state(tmp_path / "out") == before  # still damaged: nothing to do
    make_audio(path, 1.0)
    os.utime(path, ns=(10**18, 10**18))
    caplog.clear()
    result = write_set(tmp_path / "out", one_set(rows), 1)
    assert result["kept"] == 3 and not result["skipped"]
    (said,) = [text for text in caplog.messages if "made again" in text]
    assert said.endswith("train: made again: audio that was missing or damaged has come or changed")
    assert not [text for text in caplog.messages if "up to date" in text]


def test_audio_that_is_replaced_while_a_set_is_made_is_seen(tmp_path):
    path = tmp_path / "b.wav"
    path.touch()

    def read():
        yield Row("b-asr", "asr", "en", "en", "x", str(path))
        yield from filler
        make_audio(path)  # its header was read before

    filler = [
        Row(f"c{i}-asr", "asr", "en", "en", "x", str(tmp_path / "a.wav")) for i in range(4096)
    ]
    make_audio(tmp_path / "a.wav")
    one = CorpusSet("train", (), read)
    assert write_set(tmp_path / "out", one, 1)["kept"] == 4096
    assert write_set(tmp_path / "out", one, 1)["kept"] == 4097


def test_what_is_written_counted_and_listed(tmp_path):
    audio = str(make_audio(tmp_path / "a.wav", 0.5, 8000))
    speech = [
        Row(f"{i}-asr", "asr", "en", "en", f"text {i}", audio, speaker=" an\nna ") for i in "cab"
    ]
    bad = [
        Bad("list.tsv:3", "wrong number of fields", "2\tof\n3"),
        Row("c-asr", "asr", "en", "en", "another text", audio),
        Row("d-asr", "asr", "en", "en", " \t\u3000", audio),
        Row("e e-asr", "asr", "en", "en", "x", audio),
        Row("f-asr", "asr", "en", "en", "x", "two  spaces.wav"),
        Row("g-asr", "asr", "en", "en", "x", "caf\udce9.wav"),  # a file name that is not UTF-8
        Row("h-asr", "asr", "en", "en", "x", audio, 0.2, 0.9),
        Row("i-asr", "asr", "en", "en", "x", str(tmp_path / "no.wav")),
    ]
    result = write_set(tmp_path / "out", one_set([*speech, *bad]), 2)
    counts = {
        "wrong number of fields": 1,
        "id twice": 1,
        "empty text": 1,
        "bad id": 1,
        "white space in path": 1,
        "not Unicode": 1,
        "segment ends after the file": 1,
        "missing file": 1,
    }
    assert result == {"rows": 11, "kept": 3, "hours": round(1.5 / 3600, 4), "skipped": counts}
    rows = rows_of(tmp_path / "out/train")
    assert list(rows) == ["a-asr", "b-asr", "c-asr"]
    assert rows["c-asr"].target == "text c"  # the first one stays
    assert rows["c-asr"].speaker == "an_na"
    assert skipped(tmp_path / "out/train") == counts
    assert "list.tsv:3\twrong number of fields\t2 of 3" in (
        tmp_path / "out/train/skipped.tsv"
    ).read_text(encoding="utf-8")
    text = [mt("b"), mt("a", source=" "), mt("c", target="")]
    result = write_set(tmp_path / "out", one_set(text, "train_text"), 1)
    assert result["skipped"] == {"empty source": 1, "empty text": 1} and result["hours"] == 0


def test_threads_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sort_rows, "__defaults__", (10,))
    monkeypatch.setattr("espnet_part.rowpass.blocks.__defaults__", (16,))
    audio = [make_audio(tmp_path / f"{i}.wav", 0.2 + i / 50) for i in range(20)]
    audio[7].write_bytes(b"RIFF")
    rows = [
        Row(f"{i:03d}-asr", "asr", "en", "en", f"text {i}", str(audio[i * 7 % 20]))
        for i in range(200, 0, -1)
    ]
    for jobs in (1, 4):
        write_set(tmp_path / str(jobs), one_set(rows), jobs)
    one, four = (
        {name: content for name, (content, _) in state(tmp_path / jobs / "train").items()}
        for jobs in ("1", "4")
    )
    assert one.keys() == four.keys() and len(rows_of(tmp_path / "1/train")) == 190
    for name in one.keys() - {".stamp.json"}:
        assert one[name] == four[name], name
    stamps = [json.loads(files[".stamp.json"])["result"] for files in (one, four)]
    assert stamps[0] == stamps[1]


def test_made_again_only_when_something_has_changed(tmp_path):
    table, calls = tmp_path / "t.tsv", []
    table.write_text("a\nb\n")

    def make(**settings):
        def read():
            calls.append(1)
            return (mt(line) for line in table.read_text().split())

        return CorpusSet("train", [table], read, lambda: count_lines(table), settings)

    out = tmp_path / "out"
    write_sets([make(langs="de")], out, 1)
    before = state(out)
    write_sets([make(langs="de")], out, 1)
    assert state(out) == before and len(calls) == 1
    write_sets([make(langs="fr")], out, 1)
    assert len(calls) == 2
    table.write_text("a\nb\nc\n")
    write_sets([make(langs="fr")], out, 1)
    assert len(calls) == 3 and list(rows_of(out / "train")) == ["a", "b", "c"]
    (out / "train/text").write_text("a changed\nb by\nc hand\n")
    write_sets([make(langs="fr")], out, 1)
    assert len(calls) == 4 and rows_of(out / "train")["a"].target == "hallo"
    table.unlink()
    with pytest.raises(ValueError, match="t.tsv: no such file; is the corpus complete?"):
        write_sets([make(langs="fr")], out, 1)


def test_a_bad_set_does_not_stop_the_others(tmp_path, capsys):
    def broken():
        yield mt("a")
        raise ValueError("list.tsv: no column 'path'")

    def unreadable():
        yield mt("a")
        (tmp_path / "no").read_text()

    def latin():
        (tmp_path / "latin.tsv").write_bytes(b"caf\xe9")
        yield mt((tmp_path / "latin.tsv").read_text(encoding="utf-8"))

    sets = [
        CorpusSet("one", (), broken),
        one_set([Bad("x", "empty line", "3"), mt("b", source="")], "two"),
        CorpusSet("three", (), unreadable),
        CorpusSet("four", (), latin),
        one_set([mt("a")], "five", expected=2),
        one_set([mt("a")], "six_test_mt_en_de", expected=2),
    ]
    with pytest.raises(ValueError) as error:
        write_sets(sets, tmp_path / "out", 1)
    one, two, three, four = str(error.value).split("\n")
    assert one == "list.tsv: no column 'path'"
    assert "two: no row is left: skipped 2 rows: 1 empty line, 1 empty source; see " in two
    assert "No such file or directory" in three and "four: one of its tables is not UTF-8" in four
    for name in ("five", "six_test_mt_en_de"):
        assert list(rows_of(tmp_path / "out" / name)) == ["a"]
    for name in ("one", "two", "three", "four"):
        assert not (tmp_path / "out" / name / "utt2task").exists()
    said = capsys.readouterr().out
    assert "five: 1 rows, 2 were published\n" in said
    assert "six_test_mt_en_de: 1 rows, 2 were published: its scores do not compare" in said
    with pytest.raises(ValueError, match="no set is left to write; see --langs and --splits"):
        write_sets([], tmp_path / "out", 1)


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
import sorted_rows
from corpus import CorpusSet, write_set
from espnet_part import datadir_writer
from espnet_part.datadir import Row
sorted_rows.sort_rows.__defaults__ = (20,)
out, at = Path(sys.argv[3]), int(sys.argv[4])
def die(): os.kill(os.getpid(), signal.SIGKILL)
def read():
    for i in range(100, 0, -1):
        if i == at: die()
        yield Row(f"{i:03d}", "mt", "en", "de", f"neu {i}", source="s")
checked, moved, count = datadir_writer.check_row, os.replace, [0]
def writing(*args):
    count[0] += 1
    if at == -count[0]: die()
    return checked(*args)
def moving(*args):
    moved(*args)
    if at == -1000 and "text" in str(args[1]): die()
datadir_writer.check_row, os.replace = writing, moving
write_set(out, CorpusSet("train", (), read, None, {"new": True}), 1)
"""


@pytest.mark.parametrize("at", [90, 1, -50, -1000])  # read, all but one read, written, published
@pytest.mark.parametrize("was_there", [False, True])
def test_killed(tmp_path, at, was_there):
    if was_there:
        write_set(tmp_path, one_set([mt("old")]), 1)
    before = state(tmp_path)
    args = [sys.executable, "-c", KILLED, str(ROOT / "local"), str(ROOT), str(tmp_path)]
    done = subprocess.run([*args, str(at)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = tmp_path / "train"
    if at == -1000:  # while the files were moved: no reader takes the folder
        assert not (folder / "utt2task").exists()
    else:
        after = state(tmp_path)
        assert {name: after[name] for name in before} == before
        assert was_there or not (folder / "utt2task").exists()
    done = subprocess.run([*args, "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = rows_of(folder)
    assert list(rows) == [f"{i:03d}" for i in range(1, 101)]
    assert rows["007"].target == "neu 7"
    assert leftovers(folder) == [".stamp.json"]
    assert (folder / "skipped.tsv").read_bytes() == b""


# The command line


def test_run_and_its_errors(tmp_path, capsys):
    def make_sets(args):
        names = corpus.chosen(["de", "fr"], args.langs, "--langs")
        corpus.need_folder(args.corpus, "Fetch it from there.")
        return [one_set([mt("a")], f"train_{name}") for name in names]

    def main(*args):
        parser = corpus.get_parser("The card.", ["de", "fr"], ["train"], fetchable=False)
        status = corpus.run(parser, make_sets, list(args))
        return status, capsys.readouterr()

    there, out = str(tmp_path), str(tmp_path / "out")
    assert main(there, out, "--langs", "fr", "--fetch")[0] == 0  # understood by all
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train_fr"]
    status, said = main(there, out, "--langs", "en")
    assert status == 1 and "error: --langs: found 'en', expected some of de fr" in said.err
    status, said = main(str(tmp_path / "no"), out)
    assert status == 1 and "no: no such folder. Fetch it from there." in said.err
    status, said = main(there, out, "--nj", "0")
    assert status == 1 and "--nj: found 0, expected 1 or more" in said.err
    with pytest.raises(SystemExit):
        main("--help")
    assert "The card." in capsys.readouterr().out


def test_an_empty_table_is_told_as_one(tmp_path):
    with pytest.raises(ValueError) as error:
        write_set(tmp_path, one_set([]), 1)
    assert str(error.value) == (
        f"{tmp_path / 'train'}: found no rows: the table, file or folder that it is made from is "
        "empty, expected one with rows; fetch it or make it again"
    )


def test_sets_of_earlier_calls_are_told(tmp_path, capsys):
    def call(*names, **more):
        parser = corpus.get_parser("The card.", ["de"], ["train"], fetchable=False)
        sets = [one_set([mt("a")], name) for name in names]
        args = [str(tmp_path), str(tmp_path / "out")]
        assert corpus.run(parser, lambda args: sets, args, **more) == 0
        return capsys.readouterr().out

    assert "left" not in call("train_de", "dev_fr")
    assert "left" not in call("train_de", "dev_fr")
    (tmp_path / "out/notes").mkdir()  # no data folder
    said = call("x_test_mt_en_de")
    assert said.endswith(
        "out: left from an earlier call: dev_fr train_de; the recipe uses every set there: remove "
        "them, or name those to use by --train_set, --valid_set and --test_sets\n"
    )
    assert len(rows_of(tmp_path / "out/train_de")) == 1  # still there
    # Importers write set by set into one folder: that is no slip.
    assert "left" not in call("train_fr", out=lambda args: args.out)


def test_sets_can_go_elsewhere_than_out(tmp_path):
    parser = argparse.ArgumentParser()
    parser.add_argument("--nj", type=int, default=1)
    sets = [one_set([mt("a")])]
    assert corpus.run(parser, lambda args: sets, [], out=lambda args: tmp_path / "here") == 0
    assert list(rows_of(tmp_path / "here/train")) == ["a"]


def test_count_lines(tmp_path):
    (tmp_path / "a").write_bytes(b"1\n2\n")
    (tmp_path / "b").write_bytes(b"\n" * 3_000_000)
    assert count_lines(tmp_path / "a", tmp_path / "b") == 3_000_002
