"""Data folders: round trips, the merge join, and one clear error for every kind of bad folder."""

import random
import tracemalloc
from dataclasses import replace

import pytest

from espnet_part import datadir, datadir_writer, sortedfile
from espnet_part.datadir import Row, count_rows, iter_rows, normalize_text, write_datadir

ASR = Row("c1-asr", "asr", "en", "en", "hello there", "/a b/c1.wav", speaker="anna")
ST = replace(ASR, utt_id="c1-st-de", task="st", tgt="de", target="hallo", source="hello there")
MT = Row("m1", "mt", "en", "ja", "\u3053\u3093\u306b\u3061\u306f\u3000\u4e16\u754c", source="hello")


def names(folder):
    return {path.name for path in folder.iterdir()}


def lines(folder, name):
    return (folder / name).read_text(encoding="utf-8").split("\n")


def rewrite(folder, name, text):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def test_speech_round_trip(tmp_path):
    assert write_datadir(tmp_path, [ST, ASR]) == 2
    assert list(iter_rows(tmp_path)) == [ASR, ST]
    wanted = {"wav.scp", "text", "utt2spk", "utt2task", "utt2lang", "utt2tgt", "transcript"}
    assert names(tmp_path) == wanted
    assert lines(tmp_path, "wav.scp") == ["c1-asr /a b/c1.wav", "c1-st-de /a b/c1.wav", ""]
    assert lines(tmp_path, "transcript") == ["c1-st-de hello there", ""]
    assert count_rows(tmp_path) == 2


def test_text_round_trip_and_change_of_kind(tmp_path):
    write_datadir(tmp_path, [ASR])
    (tmp_path / "notes.md").write_text("mine")
    write_datadir(tmp_path, [MT])
    assert list(iter_rows(tmp_path)) == [MT]
    assert names(tmp_path) == {"source", "text", "utt2task", "utt2lang", "utt2tgt", "notes.md"}


def test_segments_round_trip(tmp_path):
    cut = replace(ASR, utt_id="c1-cut", start_sec=0.1, end_sec=1 / 3)
    rest = replace(ASR, utt_id="c1-rest", start_sec=2.5)
    write_datadir(tmp_path, [cut, rest])
    assert list(iter_rows(tmp_path)) == [cut, rest]
    assert lines(tmp_path, "segments")[1] == "c1-rest c1-rest 2.5 -1"


def test_recordings_of_segments_may_have_any_order(tmp_path):
    write_datadir(tmp_path, [replace(ASR, utt_id=f"u{i}") for i in range(4)])
    rewrite(tmp_path, "wav.scp", "r1 /1.wav\nr2 /2.wav\nr3 /3.wav\n")
    rewrite(tmp_path, "segments", "u0 r3 0 1\nu1 r1 0 1\nu2 r1 1 2.5\nu3 r2 0 -1\n")
    found = [(row.path, row.start_sec, row.end_sec) for row in iter_rows(tmp_path)]
    assert found == [("/3.wav", 0, 1), ("/1.wav", 0, 1), ("/1.wav", 1, 2.5), ("/2.wav", 0, None)]


def test_lookup_finds_every_key(tmp_path):
    keys = sorted({f"k{random.Random(i).randrange(10**6)}" for i in range(300)})
    path = tmp_path / "wav.scp"
    path.write_text("".join(f"{key} /{key}.wav\n" for key in keys).rstrip("\n"))
    lookup = sortedfile.SortedLookup(path)
    for key in random.Random(0).sample(keys, len(keys)):
        assert lookup.get(key) == f"/{key}.wav"
    for key in ("a", "k", "k5", "z", keys[3] + "0"):
        assert lookup.get(key) is None


def test_order_is_that_of_bytes(tmp_path):
    # sorted() on str puts U+FF21 after U+1F600 in UTF-16 languages; bytes and code points agree.
    ids = ["B", "a", "a-b", "a.b", "a_b", "\u00e9", "\uff21", "\U0001f600"]
    shuffled = [replace(ASR, utt_id=utt_id) for utt_id in random.Random(0).sample(ids, len(ids))]
    write_datadir(tmp_path, shuffled)
    found = [row.utt_id for row in iter_rows(tmp_path)]
    assert found == sorted(ids, key=str.encode)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\tb\nc\r\nd", "a b c d"),
        ("  a   b ", "a b"),
        ("a\x0b\x0c\x1c\x85\u2028\u2029b\x00c", "a b c"),
        ("\u65e5\u3000\u672c", "\u65e5\u3000\u672c"),  # the ideographic space is text
        ("a\u00a0b", "a\u00a0b"),
        ("\n", ""),
    ],
)
def test_normalize_text(tmp_path, text, wanted):
    assert normalize_text(text) == wanted
    write_datadir(tmp_path, [replace(MT, target=text, source=text)])
    (row,) = iter_rows(tmp_path)
    assert (row.target, row.source) == (wanted, wanted)


def test_kaldi_freedoms_are_read(tmp_path):
    write_datadir(tmp_path, [ASR, replace(ASR, utt_id="c2")])
    rewrite(tmp_path, "text", b"c1-asr\thello\tthere \r\nc2\n")
    rewrite(tmp_path, "utt2spk", b"c1-asr  anna\nc2 bob")  # two spaces; no newline at the end
    rows = list(iter_rows(tmp_path))
    assert [row.target for row in rows] == ["hello there", ""]
    assert [row.speaker for row in rows] == ["anna", "bob"]


BAD_FOLDERS = {
    "unsorted": ("text", "c2 x\nc1 x\n", "LC_ALL=C sort"),
    "twice": ("text", "c1 x\nc1 x\n", "twice"),
    "empty line": ("text", "c1 x\n\nc2 x\n", "empty line"),
    "id too many": ("text", "c1 x\nc2 x\nc3 x\n", "'c3' is in text but not in utt2task utt2lang"),
    "id too few": ("text", "c2 x\n", "'c1' is in utt2task .* but not in text;"),
    "id unlike": ("utt2spk", "c1 s\nc1x s\n", "'c1x' is in utt2spk but not in"),
    "latin-1": ("text", b"c1 \xe9\nc2 x\n", "line 1: not UTF-8"),
    "task": ("utt2task", "c1 tts\nc2 asr\n", "unknown task 'tts'"),
    "text task": ("utt2task", "c1 mt\nc2 asr\n", "'mt' in a speech folder"),
    "language": ("utt2lang", "c1 en\nc2 eng\n", "unknown language 'eng' in utt2lang"),
    "target language": ("utt2tgt", "c1 en\nc2 xx\n", "unknown language 'xx' in utt2tgt"),
    "asr to another": ("utt2tgt", "c1 en\nc2 de\n", "asr from 'en' to 'de'"),
    "pipe": ("wav.scp", "c1 sox a.sph -t wav - |\nc2 /b.wav\n", "c1: found a pipe"),
    "no path": ("wav.scp", "c1\nc2 /b.wav\n", "names no file"),
    "transcript": ("transcript", "c1 x\nc3 x\n", "'c3' is not in the other files"),
    "early transcript": ("transcript", "c0 x\nc1 x\n", "'c0' is not in the other files"),
    "segment": ("segments", "c1 c1 0\nc2 c2 0 1\n", "<recording> <start> <end>"),
    "recording": ("segments", "c1 c1 0 1\nc2 r9 0 1\n", "recording 'r9'"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_folder_has_one_clear_error(tmp_path, name):
    write_datadir(tmp_path, [replace(ASR, utt_id="c1"), replace(ASR, utt_id="c2")])
    file, text, words = BAD_FOLDERS[name]
    rewrite(tmp_path, file, text)
    with pytest.raises(ValueError, match=words) as caught:
        list(iter_rows(tmp_path))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such data folder; stage 1"):
        list(iter_rows(tmp_path / "no"))
    with pytest.raises(ValueError, match="neither wav.scp nor source"):
        list(iter_rows(tmp_path))
    write_datadir(tmp_path, [ASR])
    (tmp_path / "utt2lang").unlink()
    with pytest.raises(ValueError, match="utt2lang: no such file"):
        list(iter_rows(tmp_path))
    (tmp_path / "source").touch()
    with pytest.raises(ValueError, match="both wav.scp and source"):
        list(iter_rows(tmp_path))


def test_unsorted_recordings_are_told(tmp_path):
    write_datadir(tmp_path, [replace(ASR, utt_id=f"u{i}") for i in range(3)])
    rewrite(tmp_path, "wav.scp", "r3 /3.wav\nr2 /2.wav\nr1 /1.wav\n")
    rewrite(tmp_path, "segments", "u0 r1 0 1\nu1 r2 0 1\nu2 r3 0 1\n")
    with pytest.raises(ValueError, match="wav.scp, line 2: not sorted"):
        list(iter_rows(tmp_path))


def test_pipes_pass_only_on_demand(tmp_path):
    write_datadir(tmp_path, [replace(ASR, path="touch never |")])
    with pytest.raises(ValueError, match="found a pipe"):
        list(iter_rows(tmp_path))
    (row,) = iter_rows(tmp_path, allow_pipes=True)
    assert row.path == "touch never |"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no rows"),
        ([ASR, ASR], "repeats"),
        (iter([ST, ASR]), "comes after 'c1-st-de'"),
        ([replace(ASR, utt_id="a b")], "without white space"),
        ([replace(ASR, utt_id="a\u3000b")], "without white space"),
        ([replace(ASR, utt_id="")], "without white space"),
        ([ASR, MT], "speech and text rows"),
        ([replace(ASR, task="tts")], "unknown task"),
        ([replace(ASR, src="xx", tgt="xx")], "unknown language"),
        ([replace(ASR, tgt="de")], "asr from"),
        ([replace(ST, tgt=ST.src)], "st from"),
        ([replace(MT, tgt=MT.src)], "mt from"),
        ([replace(ASR, path="/a\nb.wav")], "without tabs"),
        ([replace(MT, task="st")], "'st' in a text folder"),
    ],
)
def test_bad_rows_leave_the_old_folder_alone(tmp_path, rows, words):
    write_datadir(tmp_path, [ST])
    before = names(tmp_path)
    with pytest.raises(ValueError, match=words):
        write_datadir(tmp_path, rows)
    assert list(iter_rows(tmp_path)) == [ST] and names(tmp_path) == before


@pytest.mark.parametrize("stop_at", range(8))
def test_killed_while_publishing_is_never_a_mixture(tmp_path, monkeypatch, stop_at):
    from espnet_part import publish

    old = [replace(ASR, target="old"), replace(ST, target="old")]
    new = [replace(ASR, target="new", speaker="new"), replace(ST, target="new", speaker="new")]
    write_datadir(tmp_path, old)
    calls = iter(range(100))
    real = publish.os.replace

    def killed(src, dst):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        real(src, dst)

    monkeypatch.setattr(publish.os, "replace", killed)
    try:
        write_datadir(tmp_path, new)
        assert stop_at >= 7
    except KeyboardInterrupt:
        with pytest.raises(ValueError, match="utt2task: no such file.*killed"):
            list(iter_rows(tmp_path))
    monkeypatch.undo()
    write_datadir(tmp_path, new)
    assert list(iter_rows(tmp_path)) == new
    assert ".staging" not in names(tmp_path)


def test_memory_does_not_grow_with_rows(tmp_path):
    def rows(count):
        return (replace(MT, utt_id=f"m{i:08d}") for i in range(count))

    def peak(count):
        tracemalloc.start()
        write_datadir(tmp_path / str(count), rows(count))
        for _ in iter_rows(tmp_path / str(count)):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(4000) < peak(1000) + 300_000


def test_names_are_public():
    assert datadir.write_datadir is datadir_writer.write_datadir
    assert set(datadir.ALL_FILES) >= {"wav.scp", "text", "source", "segments", "transcript"}


def test_byte_order_mark_is_named(tmp_path):
    rows = [Row(u, "asr", "en", "en", "one", path="a.wav", speaker="s") for u in ("a", "b")]
    write_datadir(tmp_path / "d", rows)
    path = tmp_path / "d" / "text"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(ValueError, match="text: starts with a byte order mark"):
        list(iter_rows(tmp_path / "d"))
