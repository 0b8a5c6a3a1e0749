"""Parallel text: the forms of OPUS, Tatoeba, NTREX-128 and FLORES-200.

Moses files `<corpus>.<l1>-<l2>.<l1>`: Helsinki-NLP/OpusTools, opustools_pkg/README.md (tags such as
zh_cn: TED2020.en-zh_cn.zh_cn). Tatoeba: facebookresearch/LASER, data/tatoeba/v1/. NTREX:
MicrosoftTranslator/NTREX, README.md. FLORES: facebookresearch/flores, flores200/README.md, and the
copy in Helsinki-NLP/OPUS-MT-testsets, datasets/facebook/flores/flores200_dataset/devtest.
"""

import tarfile

import pytest
import real_data
from corpus_layouts import rows_of, skipped, state

from espnet_part.datadir import normalize_text

import parallel_text  # isort: skip
import prepare_flores200 as flores  # isort: skip
import prepare_ntrex128 as ntrex  # isort: skip
import prepare_opus as opus  # isort: skip
import prepare_tatoeba as tatoeba  # isort: skip

REAL = real_data.DATA


def write(path, lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{text}{end}" for text in lines).encode())
    return path


def numbered(lang, count):
    return [f"{lang} sentence number {number}." for number in range(1, count + 1)]


def moses(root, name, first, second):
    """{tag: lines} twice."""
    (one, lines), (other, more) = first, second
    write(root / f"{name}.{one}-{other}.{one}", lines)
    write(root / f"{name}.{one}-{other}.{other}", more)
    return root


def make_opus(root):
    german, english = numbered("de", 120), numbered("en", 120)
    german[3], english[4] = "", " \t "
    german[5] = english[5] = "Windows 95"
    german[6] = "x" * (parallel_text.MAX_CHARS + 1)
    german[7], english[8] = "a\u2028b\x85c", "\ufefftab\there"
    german[49] = ""  # not fit for dev
    english[10] = "EN sentence: number 100"  # what dev holds in line 100
    english[11] = "What a test set says!"
    german[12] = "Was ein Test sagt"
    moses(root / "ted", "TED2020", ("de", german), ("en", english))
    moses(
        root, "Bible", ("en", ["In the beginning", "dup", "dup"]), ("zh_cn", ["起初", "重", "重"])
    )
    moses(root, "Bible", ("en", ["not ours"]), ("zh_tw", ["不是"]))
    moses(root, "GNOME", ("en_GB", ["Colour"]), ("es_ES", ["Color (es)"]))
    write(root / "GNOME.en-it.en", ["the other file is missing"])
    write(root / "ted/README", ["not data"])
    return root


def test_opus(tmp_path, capsys):
    corpus, out = make_opus(tmp_path / "c"), tmp_path / "out"
    test = write(
        tmp_path / "flores.txt", ["what a test set says", "", "Was ein Test sagt?!", "..."]
    )
    assert opus.main([str(corpus), str(out), "--exclude", str(test)]) == 0
    dev, train = rows_of(out / "dev"), rows_of(out / "train")
    assert list(dev) == ["TED2020.de-en-000000100-mt-de-en", "TED2020.de-en-000000100-mt-en-de"]
    row = dev["TED2020.de-en-000000100-mt-de-en"]
    assert (row.task, row.src, row.tgt, row.path) == ("mt", "de", "en", None)
    assert (row.source, row.target) == ("de sentence number 100.", "en sentence number 100.")
    row = dev["TED2020.de-en-000000100-mt-en-de"]
    assert (row.src, row.tgt) == ("en", "de")
    assert (row.source, row.target) == ("en sentence number 100.", "de sentence number 100.")
    chinese = {i: row.target for i, row in train.items() if row.tgt == "zh"}
    assert chinese == {
        f"Bible.en-zh_cn-{number:09d}-mt-en-zh": text
        for number, text in [(1, "起初"), (2, "重"), (3, "重")]  # equal pairs stay
    }
    assert train["GNOME.en_GB-es_ES-000000001-mt-es-en"].source == "Color (es)"
    assert train["TED2020.de-en-000000008-mt-de-en"].source == "a b c"
    assert train["TED2020.de-en-000000009-mt-de-en"].target == "tab here"
    gone = {4, 5, 6, 7, 11, 12, 13, 50, 100}
    for way in ("de-en", "en-de"):
        found = [i for i in train if i.startswith("TED") and i.endswith(way)]
        expected = [n for n in range(1, 121) if n not in gone]
        assert found == [f"TED2020.de-en-{n:09d}-mt-{way}" for n in expected]
    assert skipped(out / "train") == {
        "empty text": 3,
        "empty source": 3,
        "copy of the source": 2,
        "over 2000 characters": 2,
        "text of dev": 2,
        "excluded text": 4,
    }
    said = capsys.readouterr().out
    assert "Left out, not there: ja-en fr-en it-en ru-en en-ja en-sv en-id en-ar" in said


def test_again_does_nothing_and_other_directions_are_seen(tmp_path):
    corpus, out = make_opus(tmp_path / "c"), tmp_path / "out"
    args = [str(corpus), str(out), "--splits", "train", "--langs"]
    assert opus.main([*args, "de-en"]) == 0
    assert [path.name for path in out.iterdir()] == ["train"]
    before = state(out)
    assert opus.main([*args, "de-en"]) == 0
    assert state(out) == before
    assert opus.main([*args, "en-de"]) == 0
    assert {row.tgt for row in rows_of(out / "train").values()} == {"de"}
    moses(corpus, "WMT", ("fr", ["Bonjour le monde"]), ("de", ["Hallo Welt"]))
    assert opus.main([*args, "de-fr", "zh-en"]) == 0  # any two of our languages
    assert {row.target for row in rows_of(out / "train").values()} >= {"Bonjour le monde", "dup"}


def test_dev_has_at_most_500_lines_of_each_part(tmp_path, monkeypatch):
    monkeypatch.setattr("text_split.DEV_ROWS", 2)
    lines = numbered("de", 200), numbered("en", 200)
    moses(tmp_path / "c", "A", ("de", lines[0]), ("en", lines[1]))
    assert opus.main([str(tmp_path / "c"), str(tmp_path / "out"), "--langs", "de-en"]) == 0
    dev, train = rows_of(tmp_path / "out/dev"), rows_of(tmp_path / "out/train")
    assert [row.source for row in dev.values()] == [lines[0][49], lines[0][99]]
    assert len(train) == 198 and not {row.source for row in dev.values()} & {
        row.source for row in train.values()
    }


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        *[("de", "de"), ("de_AT", "de"), ("deu", "de"), ("zh_CN", "zh"), ("zho_Hans", "zh")],
        *[("zh", "zh"), ("zh_tw", None), ("zho_Hant", None), ("yue_Hant", "yue"), ("arb", "ar")],
        *[("zh_hk", None), ("pt_br", None), ("cs", None), ("es_419", "es")],
    ],
)
def test_language_tags(tag, code):
    assert opus.to_code(tag) == code


def broken(kind, root):
    make_opus(root)
    if kind == "lines":
        with (root / "ted/TED2020.de-en.en").open("a") as file:
            file.write("one more, without a line end")
    elif kind == "twice":
        moses(root / "again", "TED2020", ("de", ["ja"]), ("en", ["yes"]))
    elif kind == "empty":
        return root / "again"
    return root


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("lines", [], "found 120 lines, but 121 in TED2020.de-en.en; expected as many"),
        ("twice", [], "TED2020.de-en.de is also at"),
        ("empty", [], "again: no such folder. Fetch parallel text in Moses form"),
        ("", ["--langs", "de_en"], "--langs: found 'de_en', expected directions such as de-en"),
        ("", ["--langs", "de-de"], "--langs: found 'de-de'"),
        ("", ["--langs", "de-en", "de-ko"], "found no text for de-ko in"),
        ("", ["--splits", "test"], "--splits: found 'test', expected some of train dev"),
        ("", ["--exclude", "no.txt"], "no.txt: no such file"),
    ],
)
def test_errors(tmp_path, capsys, kind, more, message):
    corpus = broken(kind, tmp_path / "c")
    assert opus.main([str(corpus), str(tmp_path / "out"), *more]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out/train/utt2task").exists()


def test_a_missing_line_end_is_no_missing_line(tmp_path):
    corpus = moses(tmp_path / "c", "A", ("de", ["eins", "zwei"]), ("en", ["one", "two"]))
    (corpus / "A.de-en.en").write_bytes(b"one\ntwo")
    assert opus.main([str(corpus), str(tmp_path / "out"), "--splits", "train"]) == 0
    assert "two" in {row.target for row in rows_of(tmp_path / "out/train").values()}


def test_bytes_that_are_no_utf8(tmp_path):
    corpus = moses(tmp_path / "c", "A", ("de", ["eins", "?", "drei"]), ("en", ["one", "2", "3"]))
    (corpus / "A.de-en.de").write_bytes(b"eins\n\xe4\ndrei\n")
    assert opus.main([str(corpus), str(tmp_path / "out"), "--splits", "train"]) == 0
    assert skipped(tmp_path / "out/train") == {"not UTF-8": 2}
    assert len(rows_of(tmp_path / "out/train")) == 4


def test_fetching_tatoeba(tmp_path, monkeypatch):
    server = tmp_path / "server"
    for code in tatoeba.CODES.values():
        write(server / f"tatoeba.{code}-eng.{code}", numbered(code, 60))
        write(server / f"tatoeba.{code}-eng.eng", numbered("en", 60))
    monkeypatch.setattr(tatoeba, "_URL", server.as_uri())
    assert tatoeba.main([str(tmp_path / "c"), str(tmp_path / "out"), "--fetch"]) == 0
    assert len(rows_of(tmp_path / "out/dev")) == 13
    assert len(rows_of(tmp_path / "out/train")) == 13 * 59


@pytest.mark.parametrize("folder", ["NTREX-128", ""])
def test_fetching_ntrex(tmp_path, monkeypatch, folder):
    server = tmp_path / "server"
    for lang, name in ntrex.FILES.items():
        write(server / name, numbered(lang, 60))
    monkeypatch.setattr(ntrex, "_URL", server.as_uri())
    corpus = tmp_path / "c"
    if folder == "":  # a part of it is there, without the folder
        write(corpus / ntrex.FILES["en"], numbered("en", 60))
    assert ntrex.main([str(corpus), str(tmp_path / "out"), "--fetch"]) == 0
    assert sorted(path.name for path in (corpus / folder).iterdir()) == sorted(ntrex.FILES.values())
    assert len(rows_of(tmp_path / "out/dev")) == 13
    args = [str(corpus), str(tmp_path / "out"), "--use", "test", "--langs", "zh-yue"]
    assert ntrex.main(args) == 0
    test = rows_of(tmp_path / "out/ntrex128_test_mt_zh_yue")
    assert [row.target for row in test.values()] == numbered("yue", 60)


def test_ntrex_as_a_test_set_has_no_splits(tmp_path, capsys):
    assert ntrex.main([str(tmp_path), "out", "--use", "test", "--splits", "dev"]) == 1
    assert "--splits: found it with --use test" in capsys.readouterr().err


def test_fetching_flores_and_its_two_splits(tmp_path, monkeypatch, capsys):
    for split, count in (("dev", 3), ("devtest", 4)):
        for lang, code in flores.CODES.items():
            folder = tmp_path / "server/flores200_dataset" / split
            lines = [*numbered(lang, count - 1), "Windows 95"]  # a copy stays in a test set
            write(folder / f"{code}.{split}", lines)
    archive = tmp_path / "server/flores200_dataset.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "server/flores200_dataset", "./flores200_dataset")
    monkeypatch.setattr(flores, "ARCHIVE", flores.Archive(archive.as_uri(), flores.ARCHIVE.gives))
    corpus, out = tmp_path / "c", tmp_path / "out"
    assert flores.main([str(corpus), str(out), "--fetch", "--langs", "en-ja", "sv-it"]) == 0
    assert {path.name: len(rows_of(path)) for path in out.iterdir()} == {
        "flores200_test_mt_en_ja": 4,
        "flores200_test_mt_sv_it": 4,
        "flores200_test_dev_mt_en_ja": 3,
        "flores200_test_dev_mt_sv_it": 3,
    }
    assert "flores200_test_mt_sv_it: 4 rows, 1,012 were published" in capsys.readouterr().out
    rows = list(rows_of(out / "flores200_test_mt_sv_it").values())
    assert [row.utt_id for row in rows][0] == "flores200-000000001-mt-sv-it"
    assert [row.target for row in rows] == [*numbered("it", 3), "Windows 95"]
    args = [str(corpus / "flores200_dataset/dev"), str(tmp_path / "flat"), "--splits"]
    assert flores.main([*args, "dev"]) == 0  # the files without folders
    assert len(list((tmp_path / "flat").iterdir())) == 13
    assert flores.main([*args, "devtest"]) == 1
    assert "holds no devtest. Fetch FLORES-200" in capsys.readouterr().err


@real_data.needs("tatoeba")
def test_the_real_tatoeba(tmp_path):
    assert tatoeba.main([str(REAL / "tatoeba"), str(tmp_path)]) == 0  # all thirteen directions
    train, dev = rows_of(tmp_path / "train"), rows_of(tmp_path / "dev")
    assert (len(train), len(dev)) == (12_653, 260)
    assert skipped(tmp_path / "train") == {"text of dev": 87}
    assert {(row.src, row.tgt) for row in dev.values()} == set(parallel_text.DIRECTIONS)
    assert dev["tatoeba-000000050-mt-de-en"].target == line_of("tatoeba/tatoeba.deu-eng.eng", 50)


@real_data.needs("ntrex128")
def test_the_real_ntrex(tmp_path):
    args = [str(REAL / "ntrex128"), str(tmp_path), "--langs", "de-en", "en-ar"]
    assert ntrex.main(args) == 0
    train, dev = rows_of(tmp_path / "train"), rows_of(tmp_path / "dev")
    assert len(dev) == 2 * 39 and len(train) + sum(skipped(tmp_path / "train").values()) == 2 * 1958
    row = train["ntrex128-000001997-mt-en-ar"]
    assert row.target == line_of("ntrex128/newstest2019-ref.arb.txt", 1997)
    english = {row.source if row.src == "en" else row.target for row in train.values()}
    assert not english & {row.source if row.src == "en" else row.target for row in dev.values()}


@real_data.needs("flores200_devtest")
def test_the_real_flores(tmp_path, capsys):
    args = [str(REAL / "flores200_devtest"), str(tmp_path), "--langs", "de-en", "en-id"]
    assert flores.main(args) == 0
    said = capsys.readouterr().out
    assert "Left out, not there: dev" in said and "WARNING" not in said
    for name, tag in (("de_en", "eng_Latn"), ("en_id", "ind_Latn")):
        rows = rows_of(tmp_path / f"flores200_test_mt_{name}").values()
        lines = (REAL / f"flores200_devtest/{tag}.devtest").read_text("utf-8").splitlines()
        assert [row.target for row in rows] == [normalize_text(line) for line in lines]
        assert len(rows) == 1012


@real_data.needs("flores200_devtest")
def test_flores_is_kept_out_of_training(tmp_path):
    texts = [
        (REAL / f"flores200_devtest/{code}.devtest").read_text("utf-8")
        for code in ("deu_Latn", "eng_Latn")
    ]
    for tag, text in zip(("de", "en"), texts, strict=True):
        lines = [*text.upper().replace(",", "").splitlines(), f"{tag}: another line"]
        write(tmp_path / f"c/Mined.de-en.{tag}", lines)
    english = str(REAL / "flores200_devtest/eng_Latn.devtest")
    args = [str(tmp_path / "c"), str(tmp_path / "out"), "--splits", "train", "--exclude", english]
    assert opus.main(args) == 0
    assert len(rows_of(tmp_path / "out/train")) == 2
    assert skipped(tmp_path / "out/train") == {"excluded text": 2 * 1012}


def line_of(name, number):
    return (REAL / name).read_text("utf-8").split("\n")[number - 1].strip()
