"""FLEURS' layouts, looked up in public code.

Hugging Face: NVIDIA-NeMo/Curator, nemo_curator/stages/audio/datasets/fleurs/
create_initial_manifest.py (data/<lang>/<split>.tsv and data/<lang>/audio/<split>.tar.gz); the seven
fields and the missing header: lhotse-speech/lhotse, lhotse/recipes/fleurs.py. Google's tar files:
tensorflow/datasets, tensorflow_datasets/audio/xtreme_s/xtreme_s.py (FLEURS102/<lang>.tar.gz). The
odd spaces, and that sentence 10 is broken by them: espnet/espnet,
egs2/fleurs/asr1/local/create_dataset.py.
"""

import shutil
import tarfile

import pytest
from corpus_layouts import make_audio, rows_of, skipped, state

import prepare_fleurs as script  # isort: skip


def line(sentence, clip, text, end="\n"):
    chars = " ".join(text.replace(" ", "|")) + " |"
    fields = [sentence, f"{clip}.wav", text, text.lower(), chars, "8000", "FEMALE"]
    return "\t".join(map(str, fields)) + end


TABLES = {
    "de_de/test": [
        line(7, 101, "Er sagte:\u00a0\u201eJa\u201c, oder\u2009nicht."),
        line(7, 102, 'Ein "Wort allein', "\r\n"),  # the same sentence, another speaker
        line(10, 103, "Eins\u2028zwei\u200b drei"),
        line(11, 104, "Der Ton fehlt."),
        line(12, 101, "Noch einmal derselbe Clip."),
        line(13, "../../x", "Pfad"),
        line(14, 105, "\u200b \u00a0"),
        "15\t106.wav\tnur drei\n",
        line(16, 107, "Ein\tTab."),
    ],
    "de_de/train": [line(1, 201, "Guten Tag.")],
    "en_us/test": [
        line(7, 301, "He said yes, or not."),
        line(7, 302, "He said yes, or not!"),
        line(10, 303, "One two three"),
    ],
    "sv_se/test": [line(7, 401, "Han sade ja, eller inte.")],
}
AUDIO = {
    "de_de/test": [101, 102, 103, 105, 106, 107],
    "de_de/train": [201],
    "en_us/test": [301, 302, 303],
}


def make_corpus(root, form="data/"):
    """Writes the corpus; below data/ the audio is in archives, as Hugging Face has it."""
    for name, lines in TABLES.items():
        table = root / f"{form}{name}.tsv"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_bytes("".join(lines).encode())
    for name, clips in AUDIO.items():
        lang, split = name.split("/")
        folder = root / f"{form}{lang}/audio" / split
        for clip in clips:
            make_audio(folder / f"{clip}.wav", 0.3, subtype="FLOAT")  # as they are published
        if form:
            pack(folder)
    return root


def pack(folder):
    with tarfile.open(folder.with_name(f"{folder.name}.tar.gz"), "w:gz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)


@pytest.mark.parametrize("form", ["data/", ""])
def test_rows_and_faults(tmp_path, capsys, form):
    corpus, out = make_corpus(tmp_path / "c", form), tmp_path / "out"
    assert script.main([str(corpus), str(out), "--langs", "de", "en"]) == 0
    made = ["fleurs_test_asr_de", "fleurs_test_asr_en", "train_de"]
    assert sorted(path.name for path in out.iterdir()) == made
    rows = rows_of(out / "fleurs_test_asr_de")
    assert {utt_id: row.target for utt_id, row in rows.items()} == {
        "de-101-asr": "Er sagte: \u201eJa\u201c, oder nicht.",
        "de-102-asr": 'Ein "Wort allein',
        "de-103-asr": "Eins zwei drei",
    }
    row = rows["de-102-asr"]
    assert (row.task, row.src, row.tgt, row.speaker) == ("asr", "de", "de", "de-102")
    assert row.path == f"{corpus}/{form}de_de/audio/test/102.wav"
    assert skipped(out / "fleurs_test_asr_de") == {
        "missing file": 1,
        "id twice": 1,
        "wrong file name": 1,
        "empty text": 1,
        "wrong number of fields": 2,
    }
    said = capsys.readouterr().out
    assert "fleurs_test_asr_de: 3 of 9 rows" in said
    assert f"Left out, not in {corpus}: en train, en dev, de dev" in said
    assert f"{out}/fleurs_test_asr_en: 3 rows, 647 were published" in said
    assert ("Unpacking" in said) == bool(form)
    assert set(rows_of(out / "train_de")) == {"de-201-asr"}


def test_again_does_nothing(tmp_path, capsys):
    args = [str(make_corpus(tmp_path / "c")), str(tmp_path / "out"), "--st"]
    assert script.main(args) == 0
    before = state(tmp_path)
    capsys.readouterr()
    assert script.main(args) == 0
    assert state(tmp_path) == before
    assert "Unpacking" not in capsys.readouterr().out


def test_translations_are_the_other_language_of_the_same_sentence(tmp_path):
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    args = [str(corpus), str(out), "--langs", "de", "--splits", "test"]
    assert script.main([*args, "--st", "de-en", "en-sv"]) == 0
    made = ["fleurs_test_asr_de", "fleurs_test_st_de_en", "fleurs_test_st_en_sv"]
    assert sorted(path.name for path in out.iterdir()) == made
    rows = rows_of(out / "fleurs_test_st_de_en")
    assert {utt_id: (row.source, row.target) for utt_id, row in rows.items()} == {
        "de-101-st-en": ("Er sagte: \u201eJa\u201c, oder nicht.", "He said yes, or not."),
        "de-102-st-en": ('Ein "Wort allein', "He said yes, or not."),
        "de-103-st-en": ("Eins zwei drei", "One two three"),
    }
    row = rows["de-103-st-en"]
    assert (row.task, row.src, row.tgt, row.speaker) == ("st", "de", "en", "de-103")
    assert row.path == f"{corpus}/data/de_de/audio/test/103.wav"
    assert skipped(out / "fleurs_test_st_de_en") == {
        "no translation": 3,
        "wrong file name": 1,
        "wrong number of fields": 2,
    }
    assert set(rows_of(out / "fleurs_test_st_en_sv")) == {"en-301-st-sv", "en-302-st-sv"}


def test_the_papers_directions_of_the_languages_that_are_there(tmp_path, capsys):
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    assert script.main([str(corpus), str(out), "--langs", "en", "--st"]) == 0
    made = {path.name for path in out.iterdir()}
    assert made == {"fleurs_test_asr_en", "fleurs_test_st_en_de", "fleurs_test_st_en_sv"}
    assert "en-zh train" in capsys.readouterr().out


def test_a_packed_language_and_a_folder_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    corpus = make_corpus(tmp_path / "c", "")
    for lang in ("de_de", "en_us", "sv_se"):
        pack(corpus / lang)
    assert script.main([str(corpus), str(tmp_path / "out"), "--splits", "test"]) == 0
    assert len(rows_of(tmp_path / "out/fleurs_test_asr_en")) == 3

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    shutil.rmtree(corpus / "de_de")
    monkeypatch.setattr("fleurs_table.unpack", refuse)
    assert script.main([str(corpus), str(tmp_path / "out"), "--splits", "test"]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_fetching(tmp_path, monkeypatch):
    server = make_corpus(tmp_path / "server")
    monkeypatch.setattr(script, "_URL", (server / "data").as_uri())
    corpus, out = tmp_path / "c", tmp_path / "out"
    args = ["--langs", "en", "--splits", "test", "--st", "en-sv"]
    assert script.main([str(corpus), str(out), *args, "--fetch"]) == 0
    files = sorted(str(path.relative_to(corpus)) for path in corpus.rglob("*") if path.is_file())
    assert files == [
        *(f"data/en_us/audio/test/{clip}.wav" for clip in (301, 302, 303)),
        "data/en_us/test.tsv",
        "data/sv_se/test.tsv",  # to translate into: without its audio
    ]
    assert len(rows_of(out / "fleurs_test_st_en_sv")) == 2
    shutil.rmtree(server)
    assert script.main([str(corpus), str(out), *args, "--fetch"]) == 0  # all is there


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--langs", "sv"], "--langs: found 'sv', expected some of zh en"),
        (["--langs", "fr"], "holds no fr train, fr dev, fr test. Fetch FLEURS"),
        (["--langs", "en", "de", "--splits", "train"], "holds no en train. Fetch"),
        (["--splits", "dev"], "holds no zh dev, en dev"),
        (["--st", "de-xx"], "--st: found 'de-xx', expected directions such as de-en"),
        (["--st", "sv-en"], "--st: found 'sv-en'"),
        (["--st", "de-fr"], "holds no de-fr train, de-fr dev, de-fr test. Fetch"),
    ],
)
def test_errors(tmp_path, capsys, more, message):
    corpus = make_corpus(tmp_path / "c", "")
    assert script.main([str(corpus), str(tmp_path / "out"), *more]) == 1
    assert message in capsys.readouterr().err


def test_missing_corpus_and_audio(tmp_path, capsys):
    assert script.main([str(tmp_path / "no"), str(tmp_path / "out")]) == 1
    assert "no: no such folder. Fetch FLEURS from" in capsys.readouterr().err
    corpus = make_corpus(tmp_path / "c", "")
    shutil.rmtree(corpus / "en_us/audio")
    assert script.main([str(corpus), str(tmp_path / "out"), "--splits", "test"]) == 1
    assert "en_us/audio/test: no such folder, nor test.tar.gz" in capsys.readouterr().err
