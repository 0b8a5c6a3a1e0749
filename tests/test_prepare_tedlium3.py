"""TED-LIUM 3's layout, as pytorch/audio reads it: src/torchaudio/datasets/tedlium.py.

Marks and split words as in kaldi-asr/kaldi: egs/tedlium/s5_r3/local/prepare_data.sh and
join_suffix.py; `<unk>` and regions not to be scored as in espnet/espnet:
egs2/owsm_v1/s2t1/local/prepare_tedlium.py. The README (lhotse-speech/lhotse:
lhotse/recipes/tedlium.py) says that the sph files are 16-bit PCM.
"""

import re
import tarfile

import pytest
from corpus_layouts import make_audio, rows_of, skipped, state

import fetch  # isort: skip
import prepare_tedlium3 as script  # isort: skip

AL = """;; LABEL "o" "Overall" "Overall results"
AlGore_2009 1 AlGore_2009 0.00 0.50 <o,f0,male> i 'd say it 's <unk> what they don 't {NOISE}
AlGore_2009 1 inter_segment_gap 0.50 0.70 <o,,unknown> ignore_time_segment_in_scoring
AlGore_2009 1 AlGore_2009 0.70 1.20 <NA> the students ' work at five o 'clock for(2) 'em (AlGore-1)
AlGore_2009 1 AlGore_2009 1.20 1.60 <o,f0,male> <sil> <unk>
AlGore_2009 1 AlGore_2009 1.60 9.99 <o,f0,male> too late
AlGore_2009 1 AlGore_2009 0.00 0.50 <o,f0,male> a second time
AlGore_2009 1 AlGore_2009 0.20 <o,f0,male> no end
Gone_2010 1 Gone_2010 0.00 0.50 <o,f0,female> no audio
"""


def make_split(folder, talk, stm):
    make_audio(folder / "sph" / f"{talk}.sph", 2.0, format="NIST", subtype="PCM_16")
    (folder / "stm").mkdir()
    (folder / "stm" / f"{talk}.stm").write_text(stm, encoding="utf-8")


def make_corpus(root):
    release = root / "TEDLIUM_release-3"
    make_split(release / "legacy/test", "AlGore_2009", AL)
    make_split(release / "data", "Bo_2011", "Bo_2011 1 Bo 0.1 1.9 <NA> hello\n")
    (release / "legacy/train").mkdir()
    for name in ("sph", "stm"):  # as the archive has it
        (release / "legacy/train" / name).symlink_to(f"../../data/{name}")
    make_split(release / "speaker-adaptation/train", "Cy_2012", "Cy_2012 1 Cy 0 1 <NA> not used\n")
    return root


def test_rows_and_faults(tmp_path, capsys):
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    assert script.main([str(corpus), str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["tedlium3_test_asr_en", "train"]
    test = out / "tedlium3_test_asr_en"
    rows = rows_of(test)
    assert {utt_id: row.target for utt_id, row in rows.items()} == {
        "AlGore_2009-0000000-0000500-asr": "i'd say it's what they don't",
        "AlGore_2009-0000700-0001200-asr": "the students' work at five o'clock for 'em",
    }
    row = rows["AlGore_2009-0000700-0001200-asr"]
    assert (row.task, row.src, row.tgt, row.speaker) == ("asr", "en", "en", "AlGore_2009")
    assert (row.start_sec, row.end_sec) == (0.7, 1.2)
    assert row.path == f"{corpus}/TEDLIUM_release-3/legacy/test/sph/AlGore_2009.sph"
    assert skipped(test) == {
        "not to be scored": 1,
        "empty text": 1,
        "segment ends after the file": 1,
        "id twice": 1,
        "line of another form": 1,
        "missing file": 1,
    }
    (row,) = rows_of(out / "train").values()
    assert (row.utt_id, row.target, row.speaker) == ("Bo_2011-0000100-0001900-asr", "hello", "Bo")
    assert "legacy/dev: not there, dev is left out" in capsys.readouterr().out


def test_again_does_nothing_and_lost_links_do_not_matter(tmp_path):
    corpus, out = make_corpus(tmp_path / "c") / "TEDLIUM_release-3", tmp_path / "out"
    assert script.main([str(corpus), str(out)]) == 0
    before = state(out)
    assert script.main([str(corpus), str(out)]) == 0
    assert state(out) == before
    for name in ("sph", "stm"):
        (corpus / "legacy/train" / name).unlink()
    assert script.main([str(corpus), str(out), "--splits", "train"]) == 0
    assert "/data/sph/Bo_2011.sph" in (out / "train/wav.scp").read_text()


def test_compressed_sph_is_told(tmp_path):
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    audio = corpus / "TEDLIUM_release-3/data/sph/Bo_2011.sph"
    whole = audio.read_bytes()
    coding = b"sample_coding -s26 pcm,embedded-shorten-v2.00\n"
    header = re.sub(rb"sample_coding -s3 pcm\n", coding, whole[:1024])[:1024]
    audio.write_bytes(header + whole[1024:])
    assert script.main([str(corpus), str(out)]) == 1
    assert skipped(out / "train") == {"unreadable file": 1}


def test_fetch_unpacks_the_archive_with_its_links(tmp_path, monkeypatch):
    made, corpus, out = make_corpus(tmp_path / "made"), tmp_path / "c", tmp_path / "out"

    def download(url, path, checksum):
        assert url.startswith("https://www.openslr.org/resources/51/") and len(checksum) == 64
        with tarfile.open(path, "w:gz") as tar:
            tar.add(made / "TEDLIUM_release-3", "TEDLIUM_release-3")

    monkeypatch.setattr(fetch, "download", download)
    assert script.main([str(corpus), str(out), "--fetch", "--splits", "train", "test"]) == 0
    assert len(rows_of(out / "train")) == 1 and len(rows_of(out / "tedlium3_test_asr_en")) == 2
    monkeypatch.setattr(fetch, "download", None)  # not called again
    assert script.main([str(corpus), str(out), "--fetch"]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--splits", "tests"], "--splits: found 'tests', expected some of train dev test"),
        (["--splits", "dev"], "legacy: holds no dev. Fetch TED-LIUM 3 from"),
    ],
)
def test_errors(tmp_path, capsys, more, message):
    corpus = make_corpus(tmp_path / "c")
    assert script.main([str(corpus), str(tmp_path / "out"), *more]) == 1
    assert message in capsys.readouterr().err
    assert script.main([str(tmp_path / "no"), str(tmp_path / "out")]) == 1
    assert "no: no such folder. Fetch TED-LIUM 3" in capsys.readouterr().err
