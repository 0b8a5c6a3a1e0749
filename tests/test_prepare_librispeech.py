"""LibriSpeech's layout, as pytorch/audio reads it: src/torchaudio/datasets/librispeech.py.

The archives of openslr.org/12 unpack to LibriSpeech/<split>/<speaker>/<chapter>/*.flac beside one
<speaker>-<chapter>.trans.txt of `<id> <TEXT IN CAPITALS>`.
"""

import pytest
from corpus_layouts import make_audio, rows_of, skipped, state

import prepare_librispeech as script  # isort: skip


def make_corpus(root):
    def chapter(split, speaker, number, lines):
        folder = root / "LibriSpeech" / split / speaker / number
        folder.mkdir(parents=True)
        text = "".join(f"{speaker}-{number}-{utt} {said}\n" for utt, said in lines)
        (folder / f"{speaker}-{number}.trans.txt").write_text(text, encoding="utf-8")
        return folder

    folder = chapter(
        "test-clean",
        "1089",
        "134686",
        [("0000", "HE HOPED THERE'D BE STEW"), ("0001", "GONE"), ("0002", ""), ("0003", "CUT OFF")],
    )
    make_audio(folder / "1089-134686-0000.flac", 0.7)
    make_audio(folder / "1089-134686-0002.flac")
    whole = make_audio(folder / "1089-134686-0003.flac", 2.0).read_bytes()
    (folder / "1089-134686-0003.flac").write_bytes(whole[: len(whole) // 2])
    make_audio(folder / "1089-134686-0004.flac")  # nobody wrote down what it says
    folder = chapter("train-clean-100", "19", "198", [("0000", "NORTHANGER ABBEY")])
    make_audio(folder / "19-198-0000.flac")
    make_audio(folder.parent / "199/19-199-0000.flac")  # its list is missing
    return root


def test_rows_and_faults(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    assert script.main([str(corpus), str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "librispeech_test_clean_asr_en",
        "train_clean_100",
    ]
    test = out / "librispeech_test_clean_asr_en"
    (row,) = rows_of(test).values()
    assert (row.utt_id, row.task, row.src, row.tgt) == ("1089-134686-0000-asr", "asr", "en", "en")
    assert (row.target, row.speaker) == ("he hoped there'd be stew", "1089")
    assert row.path.endswith("test-clean/1089/134686/1089-134686-0000.flac")
    assert row.start_sec is None
    assert skipped(test) == {
        "missing file": 1,
        "empty text": 1,
        "truncated file": 1,
        "audio without a transcript": 1,
    }
    assert rows_of(out / "train_clean_100")["19-198-0000-asr"].target == "northanger abbey"
    assert skipped(out / "train_clean_100") == {"audio without a transcript": 1}
    # A clip without a line is a row more than the lists promise.
    assert any("train_clean_100: 2 of 2 rows (100 %)" in text for text in caplog.messages)
    said = capsys.readouterr().out
    assert "1 of 5 rows" in said and "skipped 1: missing file" in said
    assert "librispeech_test_clean_asr_en: 1 rows, 2,620 were published" in said


def test_splits_may_lie_in_either_folder(tmp_path):
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    (corpus / "LibriSpeech/test-clean").rename(corpus / "test-clean")  # the other one was fetched
    assert script.main([str(corpus), str(out)]) == 0
    assert len(list(out.iterdir())) == 2


def test_again_does_nothing_and_a_change_is_seen(tmp_path):
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    args = [str(corpus / "LibriSpeech"), str(out)]  # either folder will do
    assert script.main(args) == 0
    before = state(out)
    assert script.main(args) == 0
    assert state(out) == before
    text = corpus / "LibriSpeech/train-clean-100/19/198/19-198.trans.txt"
    text.write_text("19-198-0000 ANOTHER TEXT\n")
    assert script.main(args) == 0
    assert rows_of(out / "train_clean_100")["19-198-0000-asr"].target == "another text"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--splits", "test-clear"], "--splits: found 'test-clear', expected some of train-clean"),
        (["--splits", "dev-other"], "holds no dev-other. Fetch LibriSpeech from"),
    ],
)
def test_errors(tmp_path, capsys, more, message):
    corpus = make_corpus(tmp_path / "c")
    assert script.main([str(corpus), str(tmp_path / "out"), *more]) == 1
    assert message in capsys.readouterr().err
    assert script.main([str(tmp_path / "no"), str(tmp_path / "out")]) == 1
    assert "no: no such folder. Fetch LibriSpeech" in capsys.readouterr().err
