"""Manifests that lhotse itself writes (lhotse 1.33: `lhotse.recipes`, `CutSet.to_file`)."""

import pytest
from corpus_layouts import make_audio, rows_of, skipped, state
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.audio import AudioSource
from lhotse.cut import MultiCut
from lhotse.recipes.librispeech import prepare_librispeech

import from_lhotse as script  # isort: skip


def recording(path, name=None, channels=1, seconds=2.0):
    return Recording.from_file(make_audio(path, seconds, channels=channels), name)


def said(name, rec, start=0.0, duration=2.0, text="words", language="English", **more):
    return SupervisionSegment(name, rec, start, duration, text=text, language=language, **more)


def cuts_of(folder, recordings, supervisions):
    return CutSet.from_manifests(
        RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(supervisions)
    )


def test_a_corpus_that_lhotse_prepares(tmp_path):
    chapter = tmp_path / "LibriSpeech/test-clean/1/2"
    for name in ("1-2-0000", "1-2-0001"):
        make_audio(chapter / f"{name}.flac")
    (chapter / "1-2.trans.txt").write_text("1-2-0000 ONE\n1-2-0001 TWO\n")
    prepare_librispeech(chapter.parents[2], dataset_parts=["test-clean"], output_dir=tmp_path / "m")
    files = sorted(map(str, (tmp_path / "m").glob("*.jsonl.gz")))
    assert len(files) == 2
    out = tmp_path / "data/ls"
    assert script.main([*files, str(out), "--test_sets", "ls"]) == 0
    rows = rows_of(out / "ls_test_asr_en")
    assert list(rows) == ["1-2-0000-asr", "1-2-0001-asr"]
    row = rows["1-2-0001-asr"]
    assert (row.src, row.tgt, row.target, row.speaker) == ("en", "en", "TWO", "1")
    assert row.path == str(chapter / "1-2-0001.flac") and row.start_sec is None
    before = state(out)
    assert script.main([*files, str(out), "--test_sets", "ls"]) == 0
    assert state(out) == before


def test_cuts_with_several_supervisions_and_windows(tmp_path):
    rec = recording(tmp_path / "a.wav", "a")
    cuts = cuts_of(
        tmp_path,
        [rec],
        [
            said("one", "a", 0.25, 0.5, language="eng"),
            said("two", "a", 1, 0.75, language="en-US"),
        ],
    )
    whole = next(iter(cuts))
    window = whole.truncate(offset=0.9, duration=1.0).with_id("window")  # holds the second one
    window.supervisions[0].id = "three"
    half = whole.truncate(offset=1.25, duration=0.7).with_id("half")  # cuts the second one off
    half.supervisions[0].id = "four"
    CutSet.from_cuts([whole, window, half]).to_file(tmp_path / "cuts.jsonl.gz")
    out = tmp_path / "train"
    assert script.main([str(tmp_path / "cuts.jsonl.gz"), str(out)]) == 0
    spans = {name: (r.start_sec, r.end_sec) for name, r in rows_of(out).items()}
    assert spans == {"one-asr": (0.25, 0.75), "two-asr": (1.0, 1.75), "three-asr": (1.0, 1.75)}
    assert skipped(out) == {"supervision outside its cut": 1}


def test_what_cannot_be_read_as_it_is(tmp_path):
    mono, stereo = recording(tmp_path / "a.wav", "a"), recording(tmp_path / "b.wav", "b", 2)
    array = Recording(
        "c",
        [AudioSource("file", [i], str(make_audio(tmp_path / f"c{i}.wav", 2.0))) for i in (0, 1)],
        16000,
        32000,
        2.0,
    )
    good = next(iter(cuts_of(tmp_path, [mono], [said("good", "a")])))
    fast = good.perturb_speed(1.1).with_id("fast")
    padded = good.pad(duration=3.0).with_id("padded")
    url = Recording("u", [AudioSource("url", [0], "https://host/a.wav")], 16000, 32000, 2.0)
    pipe = Recording("p", [AudioSource("command", [0], "touch run")], 16000, 32000, 2.0)
    one_of_two = next(iter(cuts_of(tmp_path, [stereo], [said("left", "b", channel=0)])))
    far = next(iter(cuts_of(tmp_path, [array], [said("far", "c", channel=1)])))
    both = MultiCut("both", 0, 2.0, [0, 1], [said("both", "b", channel=[0, 1])], recording=stereo)
    lost = next(iter(cuts_of(tmp_path, [recording(tmp_path / "lost.wav", "l")], [said("l", "l")])))
    (tmp_path / "lost.wav").unlink()
    cuts = [
        good, fast, padded, one_of_two, far, both, lost,
        next(iter(cuts_of(tmp_path, [url], [said("url", "u")]))),
        next(iter(cuts_of(tmp_path, [pipe], [said("pipe", "p")]))),
        mono.to_cut().with_id("silent"),
        next(iter(cuts_of(tmp_path, [mono], [said("klingon", "a", language="Klingon")]))),
        next(iter(cuts_of(tmp_path, [mono], [said("none", "a", language=None)]))),
        next(iter(cuts_of(tmp_path, [mono], [said("empty", "a", text=None)]))),
    ]  # fmt: skip
    CutSet.from_cuts(c.with_id(f"{i}") for i, c in enumerate(cuts)).to_file(tmp_path / "x.jsonl")
    assert script.main([str(tmp_path / "x.jsonl"), str(tmp_path / "train")]) == 0
    rows = rows_of(tmp_path / "train")
    assert sorted(rows) == ["both-asr", "far-asr", "good-asr"]
    assert rows["far-asr"].path.endswith("c1.wav")  # the file of the channel
    assert skipped(tmp_path / "train") == {
        "transformed audio": 1,
        "mixed or padded cut": 1,
        "some channels of several": 1,
        "audio from url": 1,
        "audio from command": 1,
        "missing file": 1,
        "no supervision": 1,
        "unknown lang": 1,
        "no language": 1,
        "empty text": 1,
    }


def test_translations(tmp_path):
    rec = recording(tmp_path / "a.wav", "a")
    custom = [{"translated_text": {"eng": "hello"}}, {"translated_text": "hi"}, {"other": 1}]
    segments = [
        said(f"s{i}", "a", 0.5 * i, 0.5, "hallo", "German", custom=c, speaker="an na")
        for i, c in enumerate(custom)
    ]
    cuts_of(tmp_path, [rec], segments).to_file(tmp_path / "cuts.jsonl")
    args = [str(tmp_path / "cuts.jsonl"), str(tmp_path / "train")]
    st = ["--tgt_lang", "English", "--translation_key", "translated_text"]
    assert script.main([*args, *st]) == 0
    rows = rows_of(tmp_path / "train")
    assert sorted(rows) == ["s0-asr", "s0-st-en", "s1-asr", "s1-st-en", "s2-asr"]
    row = rows["s0-st-en"]
    assert (row.src, row.tgt, row.target, row.source) == ("de", "en", "hello", "hallo")
    assert (rows["s1-st-en"].target, row.speaker) == ("hi", "an_na")
    assert skipped(tmp_path / "train") == {"no translation": 1}
    # As lhotse's must_c recipe: text and language are the translation's.
    assert script.main([*args, "--spoken", "en"]) == 0
    assert {(r.task, r.src, r.tgt) for r in rows_of(tmp_path / "train").values()} == {
        ("st", "en", "de")
    }


def test_recordings_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_audio(tmp_path / "c/a.wav", 2.0)
    rec = Recording("a", [AudioSource("file", [0], "a.wav")], 16000, 32000, 2.0)
    RecordingSet.from_recordings([rec]).to_file("r.jsonl.gz")
    SupervisionSet.from_segments([said("s", "a", 0, 1), said("t", "b")]).to_file("s.jsonl.gz")
    assert script.main(["s.jsonl.gz", "r.jsonl.gz", "train", "--audio_root", "c"]) == 0
    (row,) = rows_of(tmp_path / "train").values()
    assert (row.path, row.start_sec, row.end_sec) == ("c/a.wav", 0.0, 1.0)
    assert skipped(tmp_path / "train") == {"missing recording": 1}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no.jsonl"], "no.jsonl: no such file; `lhotse prepare` makes manifests"),
        (["s.jsonl"], "s.jsonl holds supervisions; expected cuts alone, or recordings and"),
        (["bad.jsonl"], "bad.jsonl:1: no item of a lhotse manifest"),
        (["x.yaml"], "x.yaml: expected .jsonl or .jsonl.gz"),
        (["empty.jsonl"], "empty.jsonl: is empty"),
        (["s.jsonl", "--lang", "xx"], "lang 'xx'; expected zh en"),
        (["s.jsonl", "--tgt_lang", "en"], "--tgt_lang and --translation_key: expected both or"),
    ],
)
def test_errors(tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    SupervisionSet.from_segments([said("s", "a")]).to_file("s.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"type": "MonoCut", "text": "x"}\n')
    (tmp_path / "x.yaml").write_text("- a\n")
    (tmp_path / "empty.jsonl").write_text("")
    assert script.main([args[0], "train", *args[1:]]) == 1
    assert message in capsys.readouterr().err
