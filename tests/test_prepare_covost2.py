r"""CoVoST 2's layout, and the join of its script: facebookresearch/covost, get_covost_splits.py.

That script reads both tables with pandas: sep="\t", quoting=QUOTE_NONE, escapechar="\\",
na_filter=False; merges them (inner, on path; all splits are in one table); takes `train` and
`train_covost` for train and the rows of just that name for dev and test; and writes path,
sentence, translation, client_id in the same way. Columns of Common Voice 4 and its archives without
a folder for the locale: common-voice/cv-dataset, datasets/scripted-speech/CHANGELOG.md. REMOVE and
empty translations: common-voice/common-voice#3015. Clips of 0 bytes: common-voice/cv-dataset#31.
"""

import io
import tarfile

import fetch
import pytest
from corpus_layouts import make_audio, rows_of, skipped, state

import prepare_covost2 as script  # isort: skip

CLIENT = ("0123456789abcdef" * 8)[:128]
VALIDATED = "client_id path sentence up_votes down_votes age gender accent".split()


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_validated(folder, rows):
    """Rows of (clip, sentence); gives the folder of the locale."""
    lines = [[CLIENT, f"{clip}.mp3", said, "2", "0", "", "", ""] for clip, said in rows]
    write_lines(folder / "validated.tsv", [VALIDATED, *lines])
    (folder / "clips").mkdir(exist_ok=True)
    return folder


def write_translations(folder, pair, rows):
    """Rows of (clip, translation, split)."""
    lines = [["path", "translation", "split"], *([f"{row[0]}.mp3", *row[1:]] for row in rows)]
    return write_lines(folder / f"covost_v2.{pair}.tsv", lines)


def add_clips(folder, *names):
    for name in names:
        make_audio(folder / "clips" / f"{name}.mp3", 0.3, 48000)


def german(number):
    return f"common_voice_de_{number}"


def make_german(root, voice=None):
    """One clip each of train, train_covost, dev and test, and some that no split takes."""
    folder = (voice or root) / "de"
    splits = ["train", "train_covost", "dev", "test", "dev_covost", "test_covost", "", "invalid"]
    write_validated(folder, [(german(i), f"Satz {i}.") for i in range(9)])
    rows = [(german(i), f"Sentence {i}.", split) for i, split in enumerate(splits)]
    write_translations(root, "de_en", rows)
    add_clips(folder, *(german(i) for i in range(9)))
    return folder


def test_splits_are_the_publishers(tmp_path, capsys, monkeypatch):
    folder = make_german(tmp_path / "c")
    out = tmp_path / "out"
    assert script.main([str(tmp_path / "c"), str(out)]) == 0
    found = {path.name: sorted(rows_of(path)) for path in out.iterdir()}
    assert found == {
        "train_de_en": ["common_voice_de_0-st-en", "common_voice_de_1-st-en"],
        "dev_de_en": ["common_voice_de_2-st-en"],
        "covost2_test_st_de_en": ["common_voice_de_3-st-en"],
    }
    (row,) = rows_of(out / "covost2_test_st_de_en").values()
    assert (row.task, row.src, row.tgt) == ("st", "de", "en")
    assert (row.source, row.target) == ("Satz 3.", "Sentence 3.")
    assert (row.speaker, row.start_sec) == ("0123456789abcdef", None)
    assert row.path == str(folder / "clips" / "common_voice_de_3.mp3")
    assert not any(skipped(path) for path in out.iterdir())
    said = capsys.readouterr().out
    assert f"{tmp_path / 'c' / 'zh-CN' / 'clips'}: not there, train of zh-en is left out" in said
    test_set = out / "covost2_test_st_de_en"
    assert f"WARNING: {test_set}: 1 rows, 13,511 were published: its scores do not" in said
    monkeypatch.setitem(script.ROWS, "de-en", (2, 1, 1))
    before = state(out)
    assert script.main([str(tmp_path / "c"), str(out)]) == 0
    assert state(out) == before
    assert "WARNING" not in capsys.readouterr().out


def test_faults(tmp_path, capsys):
    folder = make_german(tmp_path / "c")
    out = tmp_path / "out"
    said = [(german(i), f"Satz {i}.") for i in range(9)]
    said += [
        (german(10), '"では" sagte er'),
        (german(11), 'mit \\\tTab und \\\\ und \\"Zeichen\\"'),
        (german(12), ""),
        (german(13), "Leer übersetzt."),
        (german(14), "Falsch."),
        (german(15), "Clip fehlt."),
        (german(16), "Null Bytes."),
        (german(18), "Doppelt übersetzt."),
        (german(19), "Doppelt gesprochen, zuerst."),
        (german(19), "Doppelt gesprochen, zuletzt."),
    ]
    with write_validated(folder, said).joinpath("validated.tsv").open("a") as file:
        file.write(f"{CLIENT}\t{german(20)}.mp3\tZu wenig Felder\n")
    more = [
        (german(10), '"One quote', "test"),
        (german(11), "with a \\\ttab, \\\\ and NA", "test"),
        (german(12), "NA", "test"),
        (german(13), "", "test"),
        (german(14), "REMOVE", "test"),
        (german(15), "The clip is missing.", "test"),
        (german(16), "No bytes.", "test"),
        (german(17), "Nobody said this.", "test"),
        (german(18), "Translated twice.", "test"),
        (german(18), "Translated a second time.", "test"),
        (german(19), "Said twice.", "test"),
        (german(20), "Its row of validated.tsv is broken.", "test"),
        (german(9), "Only said elsewhere.", "train"),
        (german(4), "REMOVE this", "train_covost"),
    ]
    kept = [(german(i), f"Sentence {i}.", split) for i, split in ((0, "train"), (3, "test"))]
    table = write_translations(tmp_path / "c", "de_en", kept + more)
    with table.open("a") as file:
        file.write("common_voice_de_21.mp3\tNo split\n")
    add_clips(folder, *(german(i) for i in (10, 11, 12, 13, 14, 18, 19, 20)))
    (folder / "clips" / f"{german(16)}.mp3").touch()
    args = [str(tmp_path / "c"), str(out), "--langs", "de-en", "--splits", "train", "test"]
    assert script.main(args) == 0
    test_set = out / "covost2_test_st_de_en"
    texts = {utt_id: (row.source, row.target) for utt_id, row in rows_of(test_set).items()}
    assert texts == {
        "common_voice_de_3-st-en": ("Satz 3.", "Sentence 3."),
        "common_voice_de_10-st-en": ('"では" sagte er', '"One quote'),
        "common_voice_de_11-st-en": (
            'mit Tab und \\ und "Zeichen"',  # a tab becomes a space in data folders
            "with a tab, \\ and NA",
        ),
        "common_voice_de_12-st-en": ("", "NA"),
        "common_voice_de_14-st-en": ("Falsch.", "REMOVE"),
        "common_voice_de_18-st-en": ("Doppelt übersetzt.", "Translated twice."),
        "common_voice_de_19-st-en": ("Doppelt gesprochen, zuerst.", "Said twice."),
    }
    assert skipped(test_set) == {
        "empty text": 1,
        "missing file": 1,
        "empty file": 1,
        "not in validated.tsv": 2,
        "translated twice": 1,
        "id twice": 1,
        "wrong number of fields": 1,
    }
    assert list(rows_of(out / "train_de_en")) == ["common_voice_de_0-st-en"]
    assert skipped(out / "train_de_en") == {
        "not in validated.tsv": 1,
        "translation says REMOVE": 1,
        "wrong number of fields": 1,
    }
    assert f"{test_set}: 7 of 15 rows" in capsys.readouterr().out


def test_joined_tables(tmp_path, capsys):
    """What the publisher's script writes, and no validated.tsv; one split is enough."""
    folder = tmp_path / "sv" / ".." / "en"  # English audio for a translation into Swedish
    (tmp_path / "sv").mkdir()
    columns = ["path", "sentence", "translation", "client_id"]
    name = "common_voice_en_1"
    rows = [
        [f"{name}.mp3", 'A "quoted" \\\\ line.', "En \\\trad.", CLIENT],
        ["common_voice_en_2.wav", "Another.", "Ännu en.", CLIENT],
        ["common_voice_en_3.mp3", "Gone.", "Borta.", CLIENT],
    ]
    write_lines(tmp_path / "covost_v2.en_sv-SE.test.tsv", [columns, *rows])
    add_clips(folder, name)
    out = tmp_path / "out"
    assert script.main([str(tmp_path), str(out), "--langs", "sv", "--splits", "test"]) == 0
    (row,) = rows_of(out / "covost2_test_st_en_sv").values()
    assert (row.utt_id, row.src, row.tgt) == ("common_voice_en_1-st-sv", "en", "sv")
    assert (row.source, row.target) == ('A "quoted" \\ line.', "En rad.")
    assert skipped(out / "covost2_test_st_en_sv") == {
        "not the name of a clip": 1,
        "missing file": 1,
    }
    capsys.readouterr()
    assert script.main([str(tmp_path), str(out), "--langs", "sv"]) == 0  # others are left out
    left_out = f"{tmp_path / 'covost_v2.en_sv-SE.tsv'}: not there, dev of en-sv is left out"
    assert left_out in capsys.readouterr().out
    assert script.main([str(tmp_path), str(out), "--langs", "en-sv"]) == 1  # named, so wanted
    assert "covost_v2.en_sv-SE.tsv: not there. Put Common Voice 4" in capsys.readouterr().err


def test_another_release(tmp_path, capsys):
    """--common_voice: clips and transcripts of a later one, in which some are gone."""
    voice = tmp_path / "cv-corpus-15.0-2023-09-08"
    folder = make_german(tmp_path / "c", voice)
    (folder / "clips" / f"{german(0)}.mp3").unlink()
    write_validated(folder, [(german(i), f"Satz {i}.") for i in (0, 1, 2)])
    out = tmp_path / "out"
    args = [str(tmp_path / "c"), str(out), "--common_voice", str(voice), "--langs", "de"]
    assert script.main([*args, "--splits", "train", "dev"]) == 0
    assert skipped(out / "train_de_en") == {"missing file": 1}
    assert "127,834 were published" in capsys.readouterr().out
    assert script.main([*args, "--splits", "test"]) == 1  # a set of no rows is none
    assert "no row is left: skipped 1 rows: 1 not in validated.tsv" in capsys.readouterr().err


def test_languages_choose_directions():
    assert script.wanted_directions(["de"]) == [("de", "en"), ("en", "de")]
    assert script.wanted_directions(["en-zh", "ja-en", "id"]) == [
        ("ja", "en"),
        ("en", "zh"),
        ("en", "id"),
    ]
    assert len(script.wanted_directions(None)) == len(script.ROWS) == 13


def test_fetch_gets_the_translations_that_are_missing(tmp_path, monkeypatch):
    folder = make_german(tmp_path / "c")
    table = tmp_path / "c" / "covost_v2.de_en.tsv"
    content = table.read_bytes()
    table.unlink()
    fetched = []

    def download(url, path, checksum):
        fetched.append(url)
        with tarfile.open(path, "w:gz") as tar:
            info = tarfile.TarInfo(url.rsplit("/", 1)[1].removesuffix(".tar.gz"))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

    monkeypatch.setattr(fetch, "download", download)
    args = [str(tmp_path / "c"), str(tmp_path / "out"), "--fetch", "--langs", "de-en"]
    assert script.main(args) == 0
    assert fetched == ["https://dl.fbaipublicfiles.com/covost/covost_v2.de_en.tsv.tar.gz"]
    assert script.main(args) == 0
    table.rename(folder / table.name)  # beside validated.tsv is there, too
    assert script.main(args) == 0
    assert len(fetched) == 1
    (folder / table.name).unlink()
    assert script.main([*args[:-1], "zh-en"]) == 1  # translations come, the audio must be there
    assert fetched[1:] == ["https://dl.fbaipublicfiles.com/covost/covost_v2.zh-CN_en.tsv.tar.gz"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--langs", "nl"], "--langs: found 'nl', expected some of zh ja de fr es it ru sv id ar"),
        (["--langs", "en-fr"], "--langs: found 'en-fr', expected some of"),
        (["--langs", "fr-en"], "fr/clips: not there. Put Common Voice 4"),
        (["--langs", "en-de"], "en/clips: not there. Put Common Voice 4"),
        (["--splits", "valid"], "--splits: found 'valid', expected some of train dev test"),
        (["--common_voice", "nowhere"], "nowhere: no such folder. Put Common Voice 4"),
    ],
)
def test_errors(tmp_path, capsys, more, message):
    make_german(tmp_path / "c")
    assert script.main([str(tmp_path / "c"), str(tmp_path / "out"), *more]) == 1
    assert message in capsys.readouterr().err


def test_nothing_there(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert script.main([str(tmp_path / "no"), out]) == 1
    assert "no: no such folder. Put Common Voice 4 there" in capsys.readouterr().err
    assert script.main([str(tmp_path), out]) == 1
    assert "holds none of the sets. Put Common Voice 4 there" in capsys.readouterr().err
    folder = make_german(tmp_path)
    (folder / "validated.tsv").unlink()
    assert script.main([str(tmp_path), out, "--langs", "de-en"]) == 1
    assert "de/validated.tsv: not there. Put" in capsys.readouterr().err
    write_lines(folder / "validated.tsv", [["client_id", "clip", "sentence"]])
    assert script.main([str(tmp_path), out, "--langs", "de-en"]) == 1
    expected = "validated.tsv: found the columns client_id clip sentence, expected also path"
    assert expected in capsys.readouterr().err
