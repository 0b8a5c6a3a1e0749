"""The page of an experiment: its numbers are those of results.json, its clips the utterances."""

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from espnet_part.audio import SAMPLE_RATE
from espnet_part.bin import report as report_command
from espnet_part.datadir import Row, write_datadir
from espnet_part.html_curves import curve_chart
from espnet_part.html_paper import paper_table
from espnet_part.html_tables import find_systems
from espnet_part.paper import load_paper, parse_cell
from espnet_part.results import KEYS, load_rows
from espnet_part.worst import find_worst

import prepare_commonvoice15  # isort: skip
import prepare_covost2  # isort: skip
import prepare_fleurs  # isort: skip
import prepare_librispeech  # isort: skip
import prepare_wenetspeech  # isort: skip

DECODE = "decode_greedy_latest"
EVIL = "<script>alert(1)</script> </script></style>\"><img src=http://x.y/z onerror='alert(2)'>"
WORDS = "cat dog cow hen pig fox owl bee ant rat".split()
ARABIC = "خمسة فئران سوداء تتقاتل في الغابة"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Node:
    def __init__(self, tag, attrs=(), parent=None):
        self.tag, self.attrs, self.parent, self.content = tag, dict(attrs), parent, []

    def text(self):
        return "".join(c if isinstance(c, str) else c.text() for c in self.content)

    def all(self, tag=None, **attrs):
        found = []
        for child in self.content:
            if isinstance(child, Node):
                if tag in (None, child.tag) and attrs.items() <= child.attrs.items():
                    found.append(child)
                found += child.all(tag, **attrs)
        return found


class Page(HTMLParser):
    """Reads a page strictly: a tag that is not closed, or closed out of turn, is a mistake."""

    def __init__(self, text):
        super().__init__()
        self.root = self.at = Node("page")
        self.feed(text)
        self.close()
        assert self.at is self.root, f"<{self.at.tag}> is not closed"

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), (tag, attrs)
        node = Node(tag, attrs, self.at)
        self.at.content.append(node)
        if tag not in VOID:
            self.at = node

    def handle_startendtag(self, tag, attrs):
        self.at.content.append(Node(tag, attrs, self.at))

    def handle_endtag(self, tag):
        assert tag == self.at.tag, f"</{tag}> within <{self.at.tag}>"
        self.at = self.at.parent

    def handle_data(self, data):
        self.at.content.append(data)


def tone(second):
    """Every second of a recording has a pitch of its own."""
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * (300 + 100 * second) * t)).astype(np.float32)


def pitch(wave_T):
    return np.argmax(np.abs(np.fft.rfft(wave_T))) * SAMPLE_RATE / len(wave_T)


def sentence(i):
    return " ".join(WORDS[(i + k) % 10] for k in range(5))


def write_hyps(exp, phase, name, hyps, curriculum="part", decode=DECODE, **meta):
    folder = exp / curriculum / f"phase{phase}" / decode / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{utt} {hyp}\n" for utt, hyp in hyps.items())
    (folder / "text").write_text(lines, encoding="utf-8")
    (folder.parent / "decode.json").write_text(json.dumps({"checkpoint": "latest.pth", **meta}))


@pytest.fixture(autouse=True, scope="module")
def no_pictures():
    """They have tests of their own, and take their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_command, "_pictures", lambda folder, rows: "")
        yield


def make_experiment(tmp_path):
    """Phases 1 and 3; English speech cut from one recording, and its Arabic translation.

    u0 has three errors in phase 3, u1 (the same sentence) two, u2 a script, u3 none; u4's file is
    missing, u5 is longer than a clip may be.
    """
    audio = tmp_path / "audio"
    audio.mkdir()
    recording, long = audio / "recording.wav", audio / "long.wav"
    soundfile.write(recording, np.concatenate([tone(s) for s in range(6)]), SAMPLE_RATE)
    soundfile.write(long, np.concatenate([tone(s % 7) for s in range(23)]), SAMPLE_RATE)
    dump, exp = tmp_path / "dump" / "raw", tmp_path / "exp" / "toy"
    asr = []
    for i in range(6):
        place = (str(recording), float(i), i + 1.0)
        place = (str(audio / "gone.wav"), 0.0, 1.0) if i == 4 else place
        place = (str(long), 0.5, 22.5) if i == 5 else place
        text = sentence(0 if i == 1 else i)
        asr.append(Row(f"u{i}", "asr", "en", "en", text, *place, speaker=f"s{i % 2}"))
    write_datadir(dump / "toy_test_asr_en", asr)
    st = [
        Row(f"t{i}", "st", "en", "ar", f"{ARABIC} {WORDS[i]}", str(recording), float(i), i + 1.0)
        for i in range(3)
    ]
    write_datadir(dump / "toy_test_st_en_ar", st)
    right = {row.utt_id: row.target for row in asr}
    wrong = {
        "u0": "cat x x x pig",
        "u1": "cat dog cow y y",
        "u2": EVIL,
        "u4": "pig fox owl bee",
        "u5": "fox owl bee ant z",
    }
    for phase, hyps in (("1", dict.fromkeys(right, "owl owl")), ("3", {**right, **wrong})):
        write_hyps(exp, phase, "toy_test_asr_en", hyps)
        answers = {row.utt_id: row.target for row in st} | {"t1": "nothing of it", "t2": ARABIC}
        write_hyps(exp, phase, "toy_test_st_en_ar", answers)
        folder = exp / "part" / f"phase{phase}"
        (folder / "config.yaml").write_text(f"phase: '{phase}'\nseed: 7\n")
        (folder / "images").mkdir()
        points = [{"step": s, "split": "train", "loss": 4 / s, "acc": s / 9} for s in range(1, 9)]
        points.append({"step": 8, "split": "valid", "loss": 0.75, "acc": 0.5, "listen": 1.5})
        (folder / "images" / "curves.json").write_text(json.dumps(points))
    return dump.parent, exp


@pytest.fixture
def experiment(tmp_path):
    """An experiment to work on: its dump and its folder."""
    return make_experiment(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An experiment that is reported, to look at: page as text, as nodes, rows, dump, folder."""
    dump, exp = make_experiment(tmp_path_factory.mktemp("written"))
    return (*run(dump, exp), dump, exp)


def run(dump, exp, *more):
    report_command.main(["--exp", str(exp), "--dumpdir", str(dump), "--bootstrap", "20", *more])
    text = (exp / "report.html").read_text(encoding="utf-8")
    return text, Page(text).root, load_rows(exp / "results.json")


def grid(table):
    """Table -> (title of its line, name above its column, small name below) -> text, small text."""
    head = table.all("thead")[0].all("tr")
    columns = []
    for cell in head[0].all("th"):
        span = int(cell.attrs.get("colspan", 1))
        below = iter(head[-1].all("th"))
        if "rowspan" in cell.attrs:
            columns.append((cell.text(), ""))
        else:
            done = sum(1 for _, small in columns if small)
            names = [th.text() for th in below][done : done + span]
            columns += [(cell.text(), name) for name in names]
    cells = {}
    for line in table.all("tbody")[0].all("tr"):
        first, *others = [c for c in line.content if isinstance(c, Node)]
        for column, cell in zip(columns[1:], others, strict=bool(others)):
            small = "".join(s.text() for s in cell.all("small"))
            key = (first.attrs.get("title", first.text()), *column)
            cells.setdefault(key, (cell.text().removesuffix(small), small))
    return cells


def test_numbers_are_those_of_results_json(written):
    _, page, rows, *_ = written
    tables = dict(zip(("wer", "bleu", "chrf"), map(grid, page.all("table")[:3]), strict=True))
    checked = 0
    for row in rows:
        if row["metric"] not in tables:
            continue
        cells = tables[row["metric"]]
        column = (
            ("floor", "") if row["curriculum"] == "floor" else ("part", f"phase {row['phase']}")
        )
        low, high = row["ci95"]
        wanted = (f"{row['value']:.2f}", f"{low:.1f}–{high:.1f}")
        assert cells[(row["test_set"], *column)] == wanted
        checked += 1
    assert checked == 9
    shown = [b.text() for b in page.all("td", **{"class": "value"}) for b in b.all("b")]
    own = [r for r in rows if r["metric"] in ("wer", "bleu") and r["curriculum"] == "part"]
    assert sorted(shown) == sorted(f"{row['value']:.2f}" for row in own)
    facts = page.all("dl", **{"class": "facts"})[0].text()
    for text in ("part (phases 1 → 3)", "latest.pth", "Seeds", "7", "espnet 2", "toy_test"):
        assert text in facts


def test_the_foot_names_every_signature(written):
    """Those of variants too, as RESULTS.md does."""
    _, page, rows, _, exp = written
    foot = {li.text().strip() for li in page.all("footer")[0].all("li")}
    row = next(r for r in rows if (r["curriculum"], r["metric"]) == ("part", "wer"))
    assert f"wer: {row['signature']}" in foot
    assert f"wer_basic: {row['wer_basic']['signature']}" in foot
    markdown = (exp / "RESULTS.md").read_text(encoding="utf-8").split("\n")
    assert foot <= {line[2:].replace("`", "") for line in markdown if line.startswith("- ")}


def test_kinds_of_errors_sum_to_the_error_rate(written):
    _, page, rows, *_ = written
    [line] = page.all("table", **{"class": "errors"})[0].all("th", title="toy_test_asr_en")
    numbers = [float(td.text()) for td in line.parent.all("td")[1:]]
    row = next(r for r in rows if (r["phase"], r["metric"]) == ("3", "wer"))
    assert sum(numbers[:3]) == pytest.approx(row["value"], abs=0.02)
    assert numbers[3] == round(100 * 5 / 6, 2)  # u3 alone is right
    [other] = page.all("table", **{"class": "errors"})[0].all("th", title="toy_test_st_en_ar")
    texts = [td.text() for td in other.parent.all("td")]
    assert texts[:5] == ["–"] * 5 and float(texts[7]) == pytest.approx(33.33)


def test_the_papers_tables():
    source, tables = load_paper()
    cells = {
        (table.name, system.name, system.size, column.group, column.label): cell
        for table in tables
        for system in table.systems
        for column, cell in zip(table.columns, system.cells, strict=True)
    }

    def value(*key):
        return cells[key].value

    assert "2509.19745" in source and [len(t.systems) for t in tables] == [7, 9, 2]
    assert round(value("Table 2", "PART", "8B", "FLEURS", "mean"), 2) == 3.73
    assert round(value("Table 2", "PART", "8B", "Common Voice 15", "mean"), 2) == 6.29
    assert round(value("Table 2", "PART", "2B", "FLEURS", "mean"), 2) == 4.72
    assert round(value("Table 2", "PART", "2B", "Common Voice 15", "mean"), 2) == 7.41
    assert round(value("Table 3", "PART", "8B", "", "mean of 13"), 2) == 37.55
    assert round(value("Table 3", "PART", "2B", "", "mean of 13"), 2) == 33.34
    assert value("Table 2", "Two-stage baseline", "?", "FLEURS", "mean") == 6.35
    assert value("Table 2", "Qwen2-Audio", "8B", "FLEURS", "ru") == 23.2
    assert value("Table 2", "MinMo", "8B", "Common Voice 15", "ja") == 13.4
    assert value("Table 3", "LLaST", "2B", "into English", "it-en") == 39.3
    assert value("Table 3", "SALMONN", "14B", "from English", "en-ja") == 22.7
    doubtful = [key[1:] for key, cell in cells.items() if cell.uncertain]
    wenet = [key for key in doubtful if key[2] == "WenetSpeech"]
    assert len(wenet) == 10 and len(doubtful) == 10 + 5 + 2 + 2  # a mean over doubt is in doubt
    assert ("Qwen2-Audio", "8B", "Common Voice 15", "ko") in doubtful
    assert {k[3] for k in doubtful if k[0] == "Qwen2.5-Omni"} >= {"yue", "de", "fr"}
    with pytest.raises(ValueError, match="found cell '4,2', expected 4.2, -"):
        parse_cell("4,2")


def test_a_row_that_lacks_a_cell_is_told(tmp_path):
    path = tmp_path / "tables.yaml"
    path.write_text(
        "source: x\ntables: [{name: T, title: t, metrics: [], notes: [],"
        " groups: [{label: g, columns: {a: null, b: null}}],"
        " systems: [{name: s, cells: '1.0'}]}]"
    )
    with pytest.raises(ValueError, match="tables.yaml, T, s: found 1 cells, expected 2"):
        load_paper(path)


def paper_row(test_set, value, seed=0, **more):
    task, src, *tgt = test_set.split("_")[-2:] if "asr" in test_set else test_set.split("_")[-3:]
    own = {"curriculum": "part", "phase": "3", "decode": DECODE, "test_set": test_set}
    own |= {"task": task, "src": src, "tgt": (tgt or [src])[0], "value": value, "seed": seed}
    metric = "wer" if task == "asr" else "bleu"
    return {**dict.fromkeys(KEYS), **own, "metric": metric, "ci95": [value - 1, value + 1], **more}


def test_own_rows_beside_the_paper(experiment, tmp_path):
    dump, exp = experiment
    extra = [
        paper_row("librispeech_test_clean_asr_en", 2.5, n_utts=5),
        paper_row("covost2_test_st_en_ja", 30.0, n_utts=15531),
        paper_row("covost2_test_st_en_ja", 32.0, seed=1, n_utts=15531),
    ]
    (tmp_path / "extra.json").write_text(json.dumps(extra))
    text, page, _ = run(dump, exp, "--reference", str(tmp_path / "extra.json"))
    assert text.index('id="paper"') < text.index('id="scores"') and "not comparable" not in text
    second, third, fourth = page.all("table")[:3]
    lines = [table.all("tr", **{"class": "own"}) for table in (second, third, fourth)]
    assert [len(own) for own in lines] == [1, 1, 0]
    assert lines[0][0].all("th")[0].text() == "part/phase3this experiment, toy"
    assert [td.text() for td in lines[0][0].all("td")[:3]] == ["2.50†1.5–3.5", "–", "–"]
    assert lines[1][0].all("td")[8].text() == "31.0030.0–32.0 of 2"
    notes = [li.text() for li in page.all("li")]
    assert "Utterances scored: LibriSpeech clean 5 (published: 2,620)." in notes
    assert "Utterances scored: from English en-ja 15,531." in notes
    assert notes.count("†: not the whole published test set.") == 1
    names = [th.text() for th in second.all("th", scope="row")]
    assert names[:7] == "SALMONN4B? MinMo8B Qwen2-Audio8B Qwen2.5-Omni8B".split() + [
        "Two-stage baseline?",
        "PART2B",
        "PART8B",
    ]
    assert [td.text() for td in second.all("tr")[3].all("td")[2:4]] == ["6.8?", "7.4?"]


def test_how_much_of_a_published_test_set_was_scored():
    _, (second, *_) = load_paper()
    fleurs = {c.test_set: c.n_utts for c in second.columns if c.group == "FLEURS" and c.test_set}
    whole = [paper_row(name, 5.0, n_utts=n or 9) for name, n in fleurs.items()]
    whole[1] |= {"n_utts": 646, "n_empty_refs": 1}  # what has no reference is not lacking

    def shown(rows):
        table, own = paper_table(second, rows, find_systems(rows, {}), "toy")
        assert own
        return [cell.text for cell in table.groups[1][0][5:16]], table.notes

    cells, notes = shown(whole)
    assert cells == ["5.00"] * 11
    assert notes[0].startswith("Utterances scored: FLEURS zh 9, en 646, ja 650, ko 382, yue 9, ")
    assert list(notes[1:]) == list(second.notes)
    part = [{**row, "n_utts": 3} if row["src"] in ("zh", "en") else row for row in whole]
    other = {**whole[2], "seed": 1, "n_utts": 4}
    cells, notes = shown([*part, other])
    assert cells == ["5.00", "5.00†", "5.00†", *["5.00"] * 7, "5.00†"], "zh: size not known"
    assert "FLEURS zh 3, en 3 (published: 647), ja 4 or 650 (published: 650), ko" in notes[0]
    unknown = [{**row, "n_utts": None} for row in whole]  # made elsewhere
    assert shown(unknown) == (["5.00"] * 11, list(second.notes))


def test_published_sizes_are_those_that_the_scripts_expect():
    _, tables = load_paper()
    sizes = {c.test_set: c.n_utts for table in tables for c in table.columns if c.test_set}
    wanted = dict.fromkeys(sizes)
    wanted |= {f"fleurs_test_asr_{lang}": n for lang, n in prepare_fleurs.TEST_CLIPS.items()}
    wanted |= prepare_wenetspeech.EXPECTED
    for name in ("clean", "other"):
        wanted[f"librispeech_test_{name}_asr_en"] = prepare_librispeech.ROWS[f"test-{name}"]
    for lang, locale in prepare_commonvoice15.LOCALES.items():
        wanted[f"commonvoice15_test_asr_{lang}"] = prepare_commonvoice15.CLIPS[locale][2]
    for pair, rows in prepare_covost2.ROWS.items():
        wanted[f"covost2_test_st_{pair.replace('-', '_')}"] = rows[2]
    assert {name: wanted[name] for name in sizes} == sizes
    assert sorted(name for name, n in sizes.items() if n is None) == [
        f"fleurs_test_asr_{lang}" for lang in ("de", "yue", "zh")
    ]


def test_other_test_sets_are_not_set_beside_the_paper(written):
    text, page, *_ = written
    assert "Language in the prompt" not in text
    assert text.index('id="papers"') > text.index('id="worst"')
    [section] = page.all("section", **{"aria-labelledby": "papers"})
    assert "not comparable" in section.text() and "toy_test" in section.text()
    assert len(section.all("details")[0].all("table")) == len(section.all("table")) == 3
    assert not section.all("tr", **{"class": "own"})


def test_what_a_model_says_stays_text(written):
    text, page, *_ = written
    assert not page.all("script") and not page.all("img") and "<script" not in text
    assert any(EVIL in span.text() for span in page.all("span", lang="en"))
    for node in page.all():
        assert not [name for name in node.attrs if name.startswith("on")]


def test_nothing_is_loaded_from_elsewhere(written):
    _, page, *_ = written
    links = [
        value
        for node in page.all()
        for name, value in node.attrs.items()
        if name in ("src", "href", "xlink:href", "srcset", "poster", "action", "data")
    ]
    assert len(links) > 5
    assert all(re.match(r"#\w+$|data:audio/ogg;base64,", link) for link in links)
    css = page.all("style")[0].text()
    assert "@import" not in css and set(re.findall(r"url\((.)", css)) <= {"#"}
    [policy] = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attrs["content"].startswith("default-src 'none';")
    assert page.all("meta", name="viewport")


def test_headings_captions_and_languages(written):
    _, page, *_ = written
    levels = [int(n.tag[1]) for n in page.all() if re.match(r"h[1-6]$", n.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(table.all("caption") for table in page.all("table"))
    assert all(th.attrs.get("scope") for th in page.all("th"))
    assert all(audio.attrs["aria-label"] for audio in page.all("audio"))
    assert any(ARABIC in span.text() for span in page.all("span", lang="ar", dir="auto"))
    assert page.all("div", **{"class": "aligned", "dir": "rtl", "lang": "ar"})
    ids = [node.attrs["id"] for node in page.all() if "id" in node.attrs]
    assert len(ids) == len(set(ids))
    assert {a.attrs["href"][1:] for a in page.all("a")} <= set(ids)


def test_the_worst_utterances(written):
    *_, rows, dump, exp = written
    [system] = find_systems(rows, {"part": ["1", "3"]})
    first = exp / "part" / "phase1" / DECODE
    asr, st = find_worst(exp, dump, system, rows, [first], 5)
    worst = [(u.example.utt_id, u.verdict) for u in asr.utterances]
    assert worst[0][0] == "u2"
    assert worst[1:] == [  # u1 is u0's sentence, u3 is right
        ("u0", "3 errors in 5: 3 S, 0 D, 0 I"),
        ("u4", "1 error in 5: 0 S, 1 D, 0 I"),
        ("u5", "1 error in 5: 1 S, 0 D, 0 I"),
    ]
    assert (asr.n_utts, asr.n_wrong, asr.chars) == (6, 5, False)
    assert [op[0] for op in asr.utterances[1].ops] == list("CSSSC")
    assert asr.utterances[1].others == {"part/phase1": "owl owl"}
    assert [u.example.utt_id for u in st.utterances] == ["t1", "t2"]
    assert st.utterances[0].flags == ["wrong lang"] and st.direction == "rtl"
    assert len(find_worst(exp, dump, system, rows, [], 1)[0].utterances) == 1


def decoded(audio):
    kind, content = audio.attrs["src"].split(",", 1)
    assert kind == "data:audio/ogg;base64"
    wave_T, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert rate == SAMPLE_RATE
    return wave_T


def test_clips_are_the_utterances_segments(written):
    _, page, *_ = written
    players = {a.attrs["aria-label"].split(",")[0]: a for a in page.all("audio")}
    assert set(players) == {"u0", "u2", "u5", "t1", "t2"}
    for name, second in (("u0", 0), ("u2", 2), ("t1", 1), ("t2", 2)):
        wave_T = decoded(players[name])
        assert len(wave_T) == pytest.approx(SAMPLE_RATE, abs=400)
        assert pitch(wave_T) == pytest.approx(300 + 100 * second, abs=4)
    assert len(decoded(players["u5"])) == pytest.approx(20 * SAMPLE_RATE, abs=400)
    notes = [small.text() for small in page.all("small") if small.parent.tag == "article"]
    assert "the first 20 of 22.0 s" in notes and "no audio: missing file" in notes


def test_audio_has_a_budget(experiment, capsys):
    dump, exp = experiment
    whole, page, _ = run(dump, exp, "--report_audio_mb", "0.02")
    clips = page.all("audio")
    assert 0 < len(clips) < 5 and sum(len(a.attrs["src"]) for a in clips) <= 20_000
    labels = [a.attrs["aria-label"].split(",")[0] for a in clips]
    assert "u2" in labels and "t1" in labels  # the worst of each test set come first
    assert "no audio: the page's budget of 0.02 MB (--report_audio_mb) is spent" in page.text()
    text, page, _ = run(dump, exp, "--report_audio_mb", "0")
    assert not page.all("audio") and len(text) < len(whole)
    assert f"Page: {exp / 'report.html'} (" in capsys.readouterr().err


def test_language_in_the_prompt(experiment):
    dump, exp = experiment
    hyps = {f"u{i}": "owl" for i in range(6)}
    name = "toy_test_asr_en"
    write_hyps(exp, "3", name, hyps, decode=f"{DECODE}_lid_wrong", lid="wrong")
    _, page, rows = run(dump, exp)
    [section] = page.all("section", **{"aria-labelledby": "lid"})
    row = next(r for r in rows if r.get("lid") == "wrong" and r["metric"] == "wer")
    assert f"{row['value']:.2f}" in [td.text() for td in section.all("td")]
    [scores] = page.all("section", **{"aria-labelledby": "scores"})
    assert "lid_wrong" not in scores.text()


def test_several_curricula(experiment):
    dump, exp = experiment
    name = "toy_test_asr_en"
    write_hyps(exp, "3", name, {f"u{i}": sentence(i) for i in range(6)}, "alone")
    _, page, rows = run(dump, exp)
    cells = grid(page.all("table")[0])
    row = next(r for r in rows if (r["curriculum"], r["metric"]) == ("alone", "wer"))
    assert cells[name, "alone", "phase 3"][0] == f"{row['value']:.2f}"
    others = [dt.text() for dt in page.all("dt") if "/" in dt.text()]
    assert {"part/phase1", "alone/phase3"} == set(others)


def test_curves_keep_their_ends():
    points = [{"step": s, "split": "train", "loss": 100 / s, "acc": 0.5} for s in range(1, 1001)]
    chart = curve_chart({"1": points, "3": points[:500]})
    assert chart.bands == [("1", 0.0, 66.67), ("3", 66.67, 33.33)] and chart.steps == 1500
    loss, acc = chart.panels
    paths = loss.lines[0].path.split("M")[1:]
    assert len(paths) == 2 and all(100 < path.count("L") < 301 for path in paths)
    assert [path.split("L")[-1].split()[0] for path in paths] == ["66.67", "100.00"]
    ticks = {text: place for place, text in loss.ticks}  # logarithmic: equal steps
    assert ticks["1"] - ticks["10"] == pytest.approx(ticks["10"] - ticks["100"], abs=0.02)
    assert acc.ticks and curve_chart({}) is None


def test_broken_files_cost_their_part_of_the_page_only(experiment):
    dump, exp = experiment
    run(dump, exp)
    text = exp / "part" / "phase3" / DECODE / "toy_test_asr_en" / "text"
    text.write_text(text.read_text() + "stranger owl\n")
    (exp / "part" / "phase1" / "images" / "curves.json").write_text("{")
    with pytest.raises(SystemExit, match="1 not scored"):
        run(dump, exp)
    page = Page((exp / "report.html").read_text(encoding="utf-8")).root
    [section] = page.all("section", **{"aria-labelledby": "worst"})
    assert "toy_test_st_en_ar" in section.text() and "toy_test_asr_en" not in section.text()
    assert not page.all("figure") and len(page.all("table")) > 6


def test_a_page_that_fails_costs_no_score(experiment, monkeypatch, capsys):
    dump, exp = experiment
    monkeypatch.setitem(sys.modules, "espnet_part.html_report", None)
    report_command.main(["--exp", str(exp), "--dumpdir", str(dump), "--bootstrap", "0"])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("Page: none (ModuleNotFoundError: ")
    assert (exp / "results.json").is_file() and not (exp / "report.html").exists()


def test_files_of_the_page_are_installed():
    from pathlib import Path

    import espnet_part

    folder = Path(espnet_part.__file__).parent
    setup = (folder.parent / "setup.py").read_text()
    patterns = re.search(r"package_data=\{\"espnet_part\": \[(.*)\]\}", setup)[1]
    named = {p for pattern in re.findall(r'"(.+?)"', patterns) for p in folder.glob(pattern)}
    assert {p.name for p in named} == {
        "paper_tables.yaml",
        "page.css",
        "page.html.jinja",
        "parts.html.jinja",
    }
