"""Common Voice's layout and columns, as they are published.

common-voice/cv-dataset: datasets/scripted-speech/README.md (archive, columns, reported.tsv) and
CHANGELOG.md (which release has which column); how tables are written (no quoting) and split
(speakers and sentences apart): common-voice/CorporaCreator, src/corporacreator/corpus.py at
f7fa8c4. Quotation marks that do not close: coqui-ai/STT#2321; clips of 0 bytes:
common-voice/cv-dataset#31; reported.tsv broken by tabs: common-voice/common-voice#4429.
"""

import tarfile

import pytest
from corpus_layouts import make_audio, rows_of, skipped, state

import prepare_commonvoice15 as script  # isort: skip

HEADER = (
    "client_id path sentence up_votes down_votes age gender accents variant locale segment".split()
)
CLIENTS = {name: (name * 64)[:128] for name in ("ab", "cd", "ef", "12", "34", "56")}


def write_table(path, rows, header=None):
    """Rows of (client_id, clip, sentence); columns that are not named stay empty."""
    header = header or HEADER
    lines = ["\t".join(header)]
    for client, clip, sentence in rows:
        row = {"client_id": client, "path": f"{clip}.mp3", "sentence": sentence, "segment": ""}
        lines.append("\t".join(row.get(name, "") for name in header))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def add_clips(folder, *names):
    for name in names:
        make_audio(folder / "clips" / f"{name}.mp3", 0.3, 32000)


def make_german(root):
    """Two clips each of train, dev and test, and one that is validated but in none of them."""
    folder = root / "de"
    ab, cd, ef = CLIENTS["ab"], CLIENTS["cd"], CLIENTS["ef"]
    train = [(ab, "common_voice_de_1", "Guten Tag."), (ab, "common_voice_de_2", "Wie geht es?")]
    dev = [(cd, "common_voice_de_3", "Es regnet."), (cd, "common_voice_de_4", "Ja.")]
    test = [(ef, "common_voice_de_5", "Der Zug hält."), (ef, "common_voice_de_6", "Zwölf Äpfel!")]
    add_clips(folder, *(f"common_voice_de_{number}" for number in range(1, 7)))
    for name, rows in (("train", train), ("dev", dev), ("test", test)):
        write_table(folder / f"{name}.tsv", rows)
    return folder, {"train": train, "dev": dev, "test": test}


def test_rows(tmp_path, capsys):
    folder, _ = make_german(tmp_path / script.RELEASE)
    out = tmp_path / "out"
    # The header decides: columns of release 17, in another order, after a byte order mark.
    later = ["sentence_id", "sentence", "sentence_domain", "path", "client_id"]
    table = write_table(folder / "dev.tsv", [("", "common_voice_de_3", "Es regnet.")], later)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    (folder / "reported.tsv").write_text("sentence\tsentence_id\tlocale\treason\nGuten Tag.\t\t\n")
    assert script.main([str(tmp_path), str(out)]) == 0  # the folder that holds the release will do
    assert sorted(path.name for path in out.iterdir()) == [
        "commonvoice15_test_asr_de",
        "dev_de",
        "train_de",
    ]
    rows = rows_of(out / "commonvoice15_test_asr_de")
    assert list(rows) == ["common_voice_de_5-asr", "common_voice_de_6-asr"]
    row = rows["common_voice_de_5-asr"]
    assert (row.task, row.src, row.tgt, row.target) == ("asr", "de", "de", "Der Zug hält.")
    assert (row.speaker, row.start_sec, row.source) == ("ef" * 8, None, None)
    assert row.path == str(folder / "clips" / "common_voice_de_5.mp3")
    (row,) = rows_of(out / "dev_de").values()
    assert (row.target, row.speaker) == ("Es regnet.", "common_voice_de_3")  # the clip's own name
    # Complained about, and yet kept.
    assert rows_of(out / "train_de")["common_voice_de_1-asr"].target == "Guten Tag."
    said = capsys.readouterr().out
    assert f"{tmp_path / script.RELEASE / 'zh-CN'}: not there, left out" in said
    assert "skipped" not in said
    test_set = out / "commonvoice15_test_asr_de"
    assert f"WARNING: {test_set}: 2 rows, 16,167 were published: its scores do not" in said
    assert f"WARNING: {out / 'train_de'}: 2 rows, 567,993 were published\n" in said


def test_published_size_is_not_warned_of(tmp_path, capsys, monkeypatch):
    make_german(tmp_path)
    monkeypatch.setitem(script.CLIPS, "de", (2, 2, 2))
    assert script.main([str(tmp_path), str(tmp_path / "out")]) == 0
    assert "WARNING" not in capsys.readouterr().out


def test_faults(tmp_path):
    folder, tables = make_german(tmp_path)
    out = tmp_path / "out"
    extra = {
        "common_voice_de_10": '"では、危険ですか？"と言った。',  # opens with a quotation mark
        "common_voice_de_11": 'Das "Unbehagen',  # not closed
        "common_voice_de_12": '"""Oh"" sagte er."',
        "common_voice_de_13": '"Eins", sagte er, "zwei."',
        "common_voice_de_14": "  Rand\u00a0\u2028hier  ",  # no end of a line
        "common_voice_de_15": "null\\tab",
    }
    bad = {
        "common_voice_de_20": '""',
        "common_voice_de_21": "Fehlt.",
        "common_voice_de_22": "Leer.",
        "common_voice_de_23": "Zu früh zu Ende.",
        "common_voice_de_24": "   ",
        "../common_voice_de_25": "Anderswo.",
        "common_voice_de_10": "Noch einmal.",
    }
    add_clips(folder, *extra, "common_voice_de_20", "common_voice_de_23", "common_voice_de_24")
    clips = folder / "clips"
    (clips / "common_voice_de_22.mp3").touch()
    whole = make_audio(clips / "common_voice_de_23.mp3", 2.0, 32000).read_bytes()
    (clips / "common_voice_de_23.mp3").write_bytes(whole[: len(whole) // 2])
    rows = tables["test"] + [
        (CLIENTS["ef"], clip, text) for part in (extra, bad) for clip, text in part.items()
    ]
    table = write_table(folder / "test.tsv", rows)
    with table.open("ab") as file:
        file.write(b"short\tcommon_voice_de_30.mp3\tZu wenig\n")
        file.write(
            b"\t".join([b"long", b"common_voice_de_31.mp3", b"Zu\tviel", *[b""] * 8]) + b"\n"
        )
        file.write(b"\t".join([b"x", b"common_voice_de_32.mp3", b"\xff", *[b""] * 8]) + b"\n")
        file.write(b"\n")
    assert script.main([str(tmp_path), str(out), "--splits", "test"]) == 0
    test_set = out / "commonvoice15_test_asr_de"
    targets = {utt_id: row.target for utt_id, row in rows_of(test_set).items()}
    assert targets == {
        "common_voice_de_5-asr": "Der Zug hält.",
        "common_voice_de_6-asr": "Zwölf Äpfel!",
        "common_voice_de_10-asr": '"では、危険ですか？"と言った。',
        "common_voice_de_11-asr": 'Das "Unbehagen',
        "common_voice_de_12-asr": '"Oh" sagte er.',
        "common_voice_de_13-asr": '"Eins", sagte er, "zwei."',
        "common_voice_de_14-asr": "Rand\u00a0 hier",
        "common_voice_de_15-asr": "null\\tab",
    }
    assert skipped(test_set) == {
        "empty text": 2,
        "missing file": 1,
        "empty file": 1,
        "truncated file": 1,
        "not the name of a clip": 1,
        "id twice": 1,
        "wrong number of fields": 2,
        "not UTF-8": 1,
    }
    assert "test.tsv:17\twrong number of fields" in (test_set / "skipped.tsv").read_text()


def test_train_on_validated_without_what_dev_and_test_hold(tmp_path):
    folder, tables = make_german(tmp_path)
    new = CLIENTS["12"]
    more = [
        (new, "common_voice_de_7", "Guten Tag."),  # a sentence of train, another voice
        (new, "common_voice_de_8", "«DER ZUG HÄLT»"),  # a sentence of test but for its marks
        (CLIENTS["cd"], "common_voice_de_9", "Neuer Satz."),  # a speaker of dev
        ("", "common_voice_de_10", "…"),  # nobody, saying nothing that has letters
    ]
    # A test row without a speaker or letters must not hold out all such rows.
    write_table(folder / "test.tsv", [*tables["test"], ("", "common_voice_de_11", "?")])
    write_table(folder / "validated.tsv", [row for rows in tables.values() for row in rows] + more)
    add_clips(folder, *(f"common_voice_de_{number}" for number in range(7, 12)))
    out = tmp_path / "out"
    args = [str(tmp_path), str(out), "--splits", "train", "--train", "validated"]
    assert script.main(args) == 0
    assert list(rows_of(out / "train_de")) == sorted(
        f"common_voice_de_{number}-asr" for number in (1, 2, 7, 10)
    )
    assert skipped(out / "train_de") == {
        "clip of dev or test": 4,
        "speaker of dev or test": 1,
        "sentence of dev or test": 1,
    }
    before = state(out)
    assert script.main(args) == 0
    assert state(out) == before
    write_table(folder / "dev.tsv", [(CLIENTS["ab"], "common_voice_de_3", "Es regnet.")])
    assert script.main(args) == 0  # another dev set holds out others
    assert skipped(out / "train_de")["speaker of dev or test"] == 2
    assert script.main(args[:-2]) == 0  # the official train again
    assert len(rows_of(out / "train_de")) == 2


def test_again_does_nothing(tmp_path):
    make_german(tmp_path / "corpus")
    args = [str(tmp_path / "corpus"), str(tmp_path / "out")]
    assert script.main(args) == 0
    before = state(tmp_path / "out")
    assert script.main(args) == 0
    assert state(tmp_path / "out") == before


def test_languages_and_another_locale(tmp_path):
    for locale in ("zh-CN", "zh-HK", "yue", "de"):
        add_clips(tmp_path / locale, f"common_voice_{locale}_1")
        row = (CLIENTS["56"], f"common_voice_{locale}_1", locale)
        write_table(tmp_path / locale / "test.tsv", [row])
    out = tmp_path / "out"
    args = [str(tmp_path), str(out), "--splits", "test", "--langs", "zh", "yue"]
    assert script.main(args) == 0
    test_set = out / "commonvoice15_test_asr_yue"
    assert sorted(path.name for path in out.iterdir()) == [
        "commonvoice15_test_asr_yue",
        "commonvoice15_test_asr_zh",
    ]
    (row,) = rows_of(test_set).values()
    assert (row.target, row.src) == ("yue", "yue")
    (row,) = rows_of(out / "commonvoice15_test_asr_zh").values()
    assert (row.target, row.src) == ("zh-CN", "zh")
    assert script.main([*args, "--locale", "yue=zh-HK"]) == 0
    (row,) = rows_of(test_set).values()
    assert (row.target, row.src, row.utt_id) == ("zh-HK", "yue", "common_voice_zh-HK_1-asr")


@pytest.mark.parametrize("inside", [False, True])
def test_archives_are_unpacked(tmp_path, inside):
    """Beside the release's folder or in the folder that shall hold it; what is there stays."""
    made = tmp_path / "made" / script.RELEASE
    make_german(made)
    home = tmp_path / "home"
    home.mkdir()
    archive = home / f"{script.RELEASE}-de.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(made, script.RELEASE)
    corpus = home / script.RELEASE if inside else home
    args = [str(corpus), str(tmp_path / "out"), "--fetch", "--splits", "test"]
    assert script.main(args) == 0
    assert len(rows_of(tmp_path / "out" / "commonvoice15_test_asr_de")) == 2
    assert archive.exists()
    before = state(home)
    assert script.main(args) == 0
    assert state(home) == before


def test_archive_of_an_unpacked_language_is_left_alone(tmp_path):
    make_german(tmp_path)
    (tmp_path / f"{script.RELEASE}-de.tar.gz").write_bytes(b"nobody opens this")
    args = [str(tmp_path), str(tmp_path / "out"), "--fetch", "--langs", "de"]
    assert script.main(args) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--langs", "nl"], "--langs: found 'nl', expected some of zh en ja ko yue"),
        (["--langs", "fr"], "fr: not there. No script can fetch it: ask the Mozilla Data"),
        (["--splits", "train"], "train.tsv: not there. No script"),
        (["--splits", "tset"], "--splits: found 'tset', expected some of train dev test"),
        (["--locale", "yue=hk"], "--locale: found 'yue=hk', expected <language>=<locale>"),
    ],
)
def test_errors(tmp_path, capsys, more, message):
    folder, _ = make_german(tmp_path / "c")
    (folder / "train.tsv").unlink()
    assert script.main([str(tmp_path / "c"), str(tmp_path / "out"), *more]) == 1
    assert message in capsys.readouterr().err


def test_nothing_there(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert script.main([str(tmp_path / "no"), out]) == 1
    assert "no: no such folder. No script can fetch it" in capsys.readouterr().err
    assert script.main([str(tmp_path), out]) == 1
    assert "holds no train dev test of zh-CN en ja" in capsys.readouterr().err
    folder, tables = make_german(tmp_path)
    write_table(folder / "test.tsv", tables["test"], ["client_id", "file", "sentence"])
    assert script.main([str(tmp_path), out, "--splits", "test"]) == 1
    expected = "test.tsv: found the columns client_id file sentence, expected also path"
    assert expected in capsys.readouterr().err
    (folder / "clips").rename(folder / "mp3")
    assert script.main([str(tmp_path), out]) == 1
    assert "found no clips/ in it, expected the audio there" in capsys.readouterr().err
