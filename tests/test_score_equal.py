"""Our numbers are those of the tools everybody uses, called plainly on the same text.

jiwer and its command, the sacrebleu command, sclite, and OpenAI's own normalizers.
"""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import jiwer
import pytest
import real_data

from espnet_part import trn
from espnet_part.normalize import CER_LANGUAGES, normalize
from espnet_part.pairs import Pair
from espnet_part.scoring import score_asr, score_st

LANGS = "zh en ja ko yue de fr ru es it".split()
needs_text = real_data.needs("ntrex128", "flores200_devtest")
needs_sclite = pytest.mark.skipif(
    trn.find_sclite() is None, reason="sclite is not installed (Debian package sctk)"
)

TEXTS = {
    "de": ["Drei Katzen, zwei Hunde.", "Es kostet 3,50 Euro!", "Heute ist ein schöner Tag."],
    "en": ["It's three o'clock, isn't it?", "Mr. Smith paid $3.50.", "The colour of the sky."],
    "zh": ["今天下雨了，我们在家。", "他买了三本书，一共 45 元。", "北京（首都）很大。"],
    "ja": ["今日はカフェで会いました。", "はい、そうです。", "ＡＢＣを三つください。"],
    "ko": ["오늘은 비가 옵니다.", "세 시에 만나요!", "고양이가 세 마리 있다."],
    "yue": ["今日落雨,我哋喺屋企。", "佢買咗三本書。", "你食咗飯未呀?"],
    "sv": ["Tre katter, två hundar.", "Det kostar 3,50 kronor!", "Idag är en fin dag."],
}


def spoiled(lang: str, texts: list[str], seed: int = 3) -> list[Pair]:
    """Hypotheses with substitutions, deletions and insertions, one of them empty."""
    rng = random.Random(seed)
    glue = "" if lang in ("zh", "ja", "yue") else " "
    pairs = []
    for number, ref in enumerate(texts):
        hyp = []
        for token in ref.split() if glue else ref:
            draw = rng.random()
            if draw < 0.15:
                continue
            hyp.append("x" if draw < 0.3 else token)
            if draw > 0.9:
                hyp.append(token)
        pairs.append(Pair(f"u{number}", ref, glue.join(hyp), "spk"))
    return [*pairs, Pair("last", texts[0], "", "spk")]


def write_lines(path: Path, lines) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def run(*command, cwd) -> str:
    command = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout


# --- jiwer


@pytest.mark.parametrize("lang", TEXTS)
def test_error_rates_are_jiwers(lang):
    pairs = spoiled(lang, TEXTS[lang])
    refs, hyps = ([normalize(getattr(p, side), lang) for p in pairs] for side in ("ref", "hyp"))
    chars = lang in CER_LANGUAGES
    plain = (jiwer.process_characters if chars else jiwer.process_words)(refs, hyps)
    main = score_asr(pairs, lang, samples=0).measures[0]
    n_tokens = plain.hits + plain.substitutions + plain.deletions
    assert main.metric == ("cer" if chars else "wer")
    assert main.value == pytest.approx(100 * (plain.cer if chars else plain.wer))
    assert main.n_ref_tokens == n_tokens
    assert main.also["sub_rate"] == pytest.approx(100 * plain.substitutions / n_tokens)
    assert main.also["del_rate"] == pytest.approx(100 * plain.deletions / n_tokens)
    assert main.also["ins_rate"] == pytest.approx(100 * plain.insertions / n_tokens)
    assert main.value > 5


@pytest.mark.parametrize(("lang", "options"), [("de", []), ("ja", ["-c"])])
def test_error_rates_are_the_jiwer_commands(tmp_path, lang, options):
    pairs = spoiled(lang, TEXTS[lang])[:-1]  # the command drops empty lines
    for name in ("ref", "hyp"):
        write_lines(tmp_path / name, (normalize(getattr(p, name), lang) for p in pairs))
    out = run("jiwer.cli", "-r", "ref", "-h", "hyp", *options, cwd=tmp_path)
    assert score_asr(pairs, lang, 0).measures[0].value == pytest.approx(100 * float(out))


# --- sacrebleu


@pytest.mark.parametrize(
    ("tgt", "tokenizer"),
    [("zh", "zh"), ("yue", "zh"), ("ja", "char"), ("ko", "13a"), ("sv", "13a")],
)
def test_bleu_and_chrf_are_the_sacrebleu_commands(tmp_path, tgt, tokenizer):
    """On the files that stage 13 writes, and on a text with a tab and a carriage return."""
    pairs = spoiled(tgt, TEXTS[tgt])
    pairs.append(Pair("odd", TEXTS[tgt][0] + "\r" + TEXTS[tgt][1], f"{TEXTS[tgt][0]}\tx"))
    scores = score_st(pairs, tgt, samples=0)
    trn.write_st(scores, tmp_path)
    command = ["sacrebleu", "ref.trn", "-i", "hyp.trn", "-m", "bleu", "chrf", "-w", "9"]
    results = json.loads(run(*command, "-tok", tokenizer, cwd=tmp_path / "score_bleu"))
    assert [result["name"] for result in results] == ["BLEU", "chrF2"]
    for measure, result in zip(scores.measures, results, strict=False):
        assert measure.value == pytest.approx(result["score"], abs=1e-8)
        assert measure.signature == result["signature"]
        assert measure.value > 5
    assert scores.measures[0].n_ref_tokens == int(
        re.search(r"ref_len = (\d+)", results[0]["verbose_score"])[1]
    )


# --- sclite


def aligned_counts(path: Path) -> list[tuple[int, ...]]:
    """(C, S, D, I) of each utterance, from a report in sclite's form."""
    text = path.read_bytes().decode("utf-8")
    found = re.findall(r"^Scores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)\s*$", text, re.M)
    return [tuple(map(int, counts)) for counts in found]


def both_reports(pairs, lang, folder) -> list[list[tuple[int, ...]]]:
    scores = score_asr(pairs, lang, samples=0)
    trn.write_asr(scores, folder)
    out = folder / f"score_{scores.measures[0].metric}"
    return [aligned_counts(out / name) for name in ("result.txt", "result.sclite.txt")]


@needs_sclite
@pytest.mark.parametrize("lang", ["de", "en", "ja", "ko"])
def test_counts_are_sclites(tmp_path, lang):
    """One kind of error a sentence: there is one best alignment, whatever an error costs."""
    glue = "" if lang == "ja" else " "
    pairs = [Pair("empty", TEXTS[lang][0], "", "spk"), Pair("right", *TEXTS[lang][:1] * 2, "spk")]
    for ref in TEXTS[lang]:
        tokens = normalize(ref, lang)
        tokens = list(tokens) if lang in CER_LANGUAGES else tokens.split()
        hyps = {
            "sub": ["x", *tokens[1:]],
            "del": tokens[:1] + tokens[2:],
            "ins": [*tokens[:2], "x", "y", *tokens[2:]],
        }
        for name, hyp in hyps.items():
            pairs.append(Pair(f"{name}{len(pairs)}", ref, glue.join(hyp), "spk"))
    ours, sclites = both_reports(pairs, lang, tmp_path)
    assert ours == sclites
    assert ours[0][2] == sum(ours[0]) > 0 and ours[1][0] == sum(ours[1])
    assert [counts[1:] for counts in ours[2:]] == [(1, 0, 0), (0, 1, 0), (0, 0, 2)] * 3


@needs_sclite
def test_where_sclites_weights_make_a_difference(tmp_path):
    """The shortest case: five substitutions, which sclite calls six errors.

    Its substitution costs 4, a deletion or an insertion 3. An alignment that trades k
    substitutions for m deletions and m insertions is cheaper for it if 4k > 6m, and has more
    errors if 2m > k: the smallest such k and m are 5 and 3.
    """
    ref, hyp = "eins zwei drei vier fünf", "vier fünf sechs sieben acht"
    assert jiwer.process_words(ref, hyp).substitutions == 5
    pairs = [Pair("u", ref, hyp, "s")]
    ours, sclites = both_reports(pairs, "de", tmp_path)
    assert ours == [(0, 5, 0, 0)]
    assert sclites == [(2, 0, 3, 3)]
    assert score_asr(pairs, "de").measures[0].value == 100.0
    # One word less, and both call it four substitutions.
    pairs = [Pair("u", "eins zwei drei vier", "vier fünf sechs sieben", "s")]
    ours, sclites = both_reports(pairs, "de", tmp_path)
    assert ours == sclites == [(0, 4, 0, 0)]


@needs_sclite
@needs_text
@pytest.mark.parametrize("lang", ["de", "ja"])
def test_sclite_differs_by_its_weights_alone(tmp_path, lang):
    """On real text: its alignment is never dearer by its weights, ours never has more errors."""
    lines = real_data.ntrex(lang)[:150]
    ours, sclites = both_reports(spoiled(lang, lines), lang, tmp_path)
    assert len(ours) == len(sclites) == 151
    for (_, *mine), (_, *its) in zip(ours, sclites, strict=True):
        assert sum(mine) <= sum(its)
        assert 4 * its[0] + 3 * (its[1] + its[2]) <= 4 * mine[0] + 3 * (mine[1] + mine[2])
    assert sum(mine == its for mine, its in zip(ours, sclites, strict=True)) > 75


# --- the normalizer


@pytest.fixture(scope="module")
def package():
    """OpenAI's own classes, imported as its users do."""
    normalizers = pytest.importorskip("whisper.normalizers")
    return normalizers.BasicTextNormalizer(), normalizers.EnglishTextNormalizer()


def check_normalizer(package, lang: str, step: int) -> None:
    """The package's text, less outer spaces, and all white space for zh ja ko yue."""
    basic, english = package
    lines = [*real_data.flores(lang), *real_data.ntrex(lang)]
    assert len(lines) == 1012 + 1997
    for line in lines[::step]:
        whispers = (english if lang == "en" else basic)(line)
        ours = normalize(line, lang)
        assert ours == ("".join(whispers.split()) if lang in CER_LANGUAGES else whispers.strip())
        if lang == "en":
            assert normalize(line, lang, basic=True) == basic(line).strip()


@needs_text
@pytest.mark.parametrize("lang", LANGS)
def test_normalizer_is_the_packages(package, lang):
    """On every sentence; on some for English, whose rules take ten times as long."""
    check_normalizer(package, lang, step=10 if lang == "en" else 1)


@pytest.mark.slow
@needs_text
def test_normalizer_is_the_packages_on_every_english_sentence(package):
    check_normalizer(package, "en", step=1)
