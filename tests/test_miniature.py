"""The miniature: its grammar, what is held out of it, its voices, and the files made of them."""

import dataclasses
import itertools
import json
import random
import re
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "local"))

import make_parts_miniature  # noqa: E402
import miniature_grammar as grammar  # noqa: E402
import miniature_speech as speech  # noqa: E402
import miniature_text as text  # noqa: E402
import prepare_miniature  # noqa: E402
import train_miniature_base  # noqa: E402
from ctc_encoder import build_tiny_encoder, load_ctc  # noqa: E402
from espeak import VOICES, Espeak, Manner  # noqa: E402
from text_llm import build_llm  # noqa: E402

from espnet_part.datadir import iter_rows  # noqa: E402
from espnet_part.encoder import build_encoder  # noqa: E402
from espnet_part.prompt import LANGUAGES  # noqa: E402
from espnet_part.results import load_rows  # noqa: E402

ALL = (*grammar.SPOKEN, *grammar.ILL_RESOURCED)
BASE = ROOT / "local/miniature_base"
SIZES = {"train": 6, "dev": 3, "test": 4, "testvoice": 4}


def some(split, n, seed=0):
    return list(itertools.islice(grammar.draw(split, random.Random(seed), set()), n))


@cache
def pattern(template, language):
    """A regular expression with a group per slot; agreement is left open."""
    out = ""
    for part in grammar.read_templates()[template][language].split("{"):
        name, brace, rest = part.partition("}")
        if not brace:
            out += re.escape(part)
            continue
        slot = name.partition("@")[0]
        words = range(len(grammar.read_words()[slot]))
        forms = [f for w in words for f in grammar.forms_of(slot, w, language).values()]
        out += f"(?P<{slot}>{'|'.join(map(re.escape, sorted(forms, key=len, reverse=True)))})"
        out += re.escape(rest)
    return re.compile(out)


def understand(sentence, language):
    """All meanings that a sentence can have."""
    found = []
    for template in grammar.read_templates():
        match = pattern(template, language).fullmatch(sentence)
        if not match:
            continue
        options = [
            [
                (slot, w)
                for w in range(len(grammar.read_words()[slot]))
                if match[slot] in grammar.forms_of(slot, w, language).values()
            ]
            for slot in grammar.slots_of(template)
        ]
        found += [grammar.Meaning(template, words) for words in itertools.product(*options)]
    return found


def test_size():
    """At least three templates and 120 content words, in the paper's languages and directions."""
    words = grammar.read_words()
    assert len(grammar.read_templates()) >= 3
    assert sum(map(len, words.values())) >= 120
    assert set(ALL) == set(LANGUAGES) and len(grammar.SPOKEN) == 10
    assert len(set(grammar.DIRECTIONS)) == 13
    used = {s for t in grammar.read_templates() for s in grammar.slots_of(t)}
    assert used == set(words)


@pytest.mark.parametrize("language", ALL)
def test_a_sentence_has_one_meaning(language):
    """So a reference is never one of several right answers, and a translation never a guess."""
    for meaning in some("train", 150) + some("test", 50):
        assert understand(grammar.say(meaning, language), language) == [meaning]


def test_agreement():
    def said(template, language, **words):
        slots = grammar.slots_of(template)
        table = grammar.read_words()
        chosen = tuple(
            (s, next(i for i, w in enumerate(table[s]) if w["en"] == words[s])) for s in slots
        )
        return grammar.say(grammar.Meaning(template, chosen), language)

    frogs = dict(number="five", colour="white", animal="frogs", action="sing", place="in the park")
    assert said("animals", "fr", **frogs) == "cinq grenouilles blanches chantent dans le parc"
    assert said("animals", "ru", **frogs) == "пять белых лягушек поют в парке"
    assert said("animals", "ar", **frogs).startswith("خمسة ضفادع")
    window = dict(object="window", room="in the office", quality="new")
    assert said("things", "ru", **window) == "окно в офисе новое"
    assert said("things", "sv", **window) == "fönstret på kontoret är nytt"


def test_held_out_pairs():
    """Each word of the longer slot has one pair in dev, another one in test, the rest in train."""
    words, pairs = grammar.read_words(), {s: grammar.held_out_pairs(s) for s in grammar.HELD_OUT}
    assert not pairs["dev"] & pairs["test"]
    slots = [p for t in grammar.read_templates().values() for p in t["pairs"]]
    for split in grammar.HELD_OUT:
        assert len(pairs[split]) == sum(max(len(words[a]), len(words[b])) for a, b in slots)
    # No word is unknown to training.
    trained = {word for meaning in some("train", 3000) for word in meaning.words}
    assert trained == {(slot, i) for slot, cells in words.items() for i in range(len(cells))}
    with pytest.raises(StopIteration):  # a word with all its pairs held out would never be drawn
        next(m for m in some("train", 500) if not grammar.belongs(m, "train"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small corpus: everything as in the real one, with few clips."""
    out = tmp_path_factory.mktemp("miniature")
    prepare_miniature.prepare(out, SIZES, 30, 0, 2)
    return out


def held_out_of(rows):
    """For each split, whether each row says one of its pairs, in source or target."""
    found = {split: [] for split in grammar.HELD_OUT}
    for row in rows:
        sentences = [(row.target, row.tgt)]
        if row.source:
            sentences.append((row.source, row.src))
        meanings = [understand(s, lang) for s, lang in sentences]
        assert all(m == meanings[0] and len(m) == 1 for m in meanings), row
        for split in grammar.HELD_OUT:
            found[split].append(bool(grammar.pairs_in(meanings[0][0], split)))
    return found


def test_held_out_by_the_files(data):
    """Read back from the text files: no training sentence of any language has a held-out pair."""
    for folder in sorted(data.glob("*")):
        if not (folder / "text").exists():
            continue
        found = held_out_of(iter_rows(folder))
        if folder.name.startswith("train"):
            assert not any(found["dev"]) and not any(found["test"]), folder
        else:
            mine, other = ("dev", "test") if folder.name == "dev" else ("test", "dev")
            assert all(found[mine]) and not any(found[other]), folder


def test_held_out_of_the_base_models():
    """What the committed encoder heard and the committed LLM read."""
    said = [c.meaning for kind, n in train_miniature_base.SPEECH.items() for lang in grammar.SPOKEN
            for c in speech.plan(f"{kind}_train", lang, n, Path("."), 1)]  # fmt: skip
    for meaning in said + train_miniature_base.text_meanings():
        assert grammar.belongs(meaning, "train")


def test_held_out_of_real_text(tmp_path):
    for src, tgt in grammar.DIRECTIONS:
        code = text.CODES[tgt if src == "en" else src]
        foreign = tgt if src == "en" else src
        bad = some("test", 1)[0]
        lines = {"eng": ["hello", grammar.say(bad, "en"), "so it is"]}
        lines[code] = ["x", "y", grammar.say(bad, foreign)]
        for end, content in lines.items():
            (tmp_path / f"tatoeba.{code}-eng.{end}").write_text("\n".join(content) + "\n")
    real = text.read_real(tmp_path)
    assert len(real) == 13 and {source for _, source, _, _ in real} <= {"hello", "x"}
    with pytest.raises(ValueError, match="tatoeba.cmn-eng.cmn is missing"):
        text.read_real(tmp_path / "nowhere")


def test_folders(data):
    names = {p.name for p in data.iterdir()}
    for split in ("test", "testvoice"):
        assert {f"miniature_{split}_asr_{lang}" for lang in grammar.SPOKEN} <= names
        assert {f"miniature_{split}_st_{a}_{b}" for a, b in grammar.DIRECTIONS} <= names
    train = list(iter_rows(data / "train"))
    assert {(r.task, r.src) for r in train if r.task == "asr"} == {
        ("asr", lang) for lang in grammar.SPOKEN
    }
    st = [(r.src, r.tgt) for r in train if r.task == "st"]
    assert set(st) <= set(grammar.DIRECTIONS)
    assert st.count(("en", "zh")) == SIZES["train"] and st.count(("en", "sv")) == 1
    texts = [(r.src, r.tgt) for r in iter_rows(data / "train_text")]
    assert set(texts) == set(grammar.DIRECTIONS)
    assert all(texts.count(("en", tgt)) == 3 for tgt in grammar.ILL_RESOURCED)
    assert texts.count(("de", "en")) == 30
    info = soundfile.info(next(iter_rows(data / "train")).path)
    assert info.samplerate == 16000 and info.channels == 1


def test_a_voice_per_language_is_never_trained_on(data):
    heard = {r.speaker for name in ("train", "dev") for r in iter_rows(data / name)}
    known, unseen = (
        {
            r.speaker
            for lang in grammar.SPOKEN
            for r in iter_rows(data / f"miniature_{split}_asr_{lang}")
        }
        for split in ("test", "testvoice")
    )
    assert len(unseen) == 10 and not unseen & heard and not unseen & known
    assert set(speech.UNSEEN_VOICES).isdisjoint({*speech.VOICES, *speech.VARIED_VOICES})
    assert set(speech.VOICES).isdisjoint(speech.VARIED_VOICES) and len(speech.VOICES) == 8


def test_test_sentences_are_parallel(data):
    english = [r.target for r in iter_rows(data / "miniature_test_asr_en")]
    assert len(set(english)) == SIZES["test"]
    for src in grammar.TO_ENGLISH:
        for split in ("test", "testvoice"):
            rows = iter_rows(data / f"miniature_{split}_st_{src}_en")
            assert sorted(r.target for r in rows) == sorted(english)


def test_made_once(data, capsys):
    before = (data / "prepared.json").stat().st_mtime_ns
    prepare_miniature.prepare(data, SIZES, 30, 0, 2)
    assert "is prepared with these settings" in capsys.readouterr().out
    assert (data / "prepared.json").stat().st_mtime_ns == before
    assert json.loads((data / "prepared.json").read_text())["espeak"]


def test_the_same_clips_whatever_else_is_made(data, tmp_path):
    """In other processes, and of another size of the split."""
    clips = speech.plan("train", "de", SIZES["train"] - 2, tmp_path, 0)
    assert [n for _, n in speech.write_clips({"train": clips}, 0, 1)] == [len(clips)]
    for clip in clips:
        ours, theirs = (soundfile.read(p / "train" / clip.path.name)[0]
                        for p in (tmp_path, data / "audio"))  # fmt: skip
        assert np.array_equal(ours, theirs)


def test_voices_say_different_things():
    espeak = Espeak()
    waves = {}
    for language in VOICES:
        a, b = some("train", 2)
        for name, meaning in (("a", a), ("b", b)):
            wave = espeak.say(grammar.say(meaning, language), language, Manner("m3"))
            assert 0.5 < len(wave) / 16000 < 6 and 0.05 < np.abs(wave).max() <= 1
            waves[language, name] = wave
        assert len(waves[language, "a"]) != len(waves[language, "b"])
    fast = espeak.say("five black cats", "en", Manner("", 200))
    assert len(fast) < len(espeak.say("five black cats", "en", Manner("", 140)))


def test_what_espeak_cannot_say():
    espeak = Espeak()
    with pytest.raises(ValueError, match="No voice for language 'sv'; there are: zh, en"):
        espeak.say("hej", "sv", Manner())
    with pytest.raises(ValueError, match="has no voice 'de\\+nobody'"):
        espeak.say("hallo", "de", Manner("nobody"))


def test_a_long_path_is_shortened(monkeypatch, tmp_path):
    import espeakng_loader

    far = tmp_path / ("x" * 120)
    far.mkdir()
    (far / "data").symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(far / "data"))
    assert len(str(far)) > 120 and len(Espeak().say("ciao", "it", Manner())) > 4000


def test_without_espeak(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    with pytest.raises(ValueError, match="pip install espeakng-loader"):
        Espeak()


def test_noise_has_the_ratio_asked_for():
    rng = np.random.default_rng(0)
    assert np.mean(speech.noise(5000, rng) ** 2) == pytest.approx(1.0)
    assert speech.PART.snr_db[0] < speech.VARIED.snr_db[0] < speech.CLEAN.snr_db[0]


# ----- base models -----


def test_base_models_are_small_and_whole():
    """In the form in which real ones are loaded; of 16 bits, and deep enough for "last:3"."""
    files = [p for p in BASE.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 10e6
    for part in ("encoder", "llm"):
        with safe_open(BASE / part / "model.safetensors", "pt") as weights:
            assert {str(weights.get_slice(name).get_dtype()) for name in weights.keys()} == {"F16"}
    encoder = build_encoder("sensevoice", source=str(BASE / "encoder"))
    assert len(encoder.layers) >= 10 and encoder.weight_dtype == torch.float32
    head, units = load_ctc(BASE / "ctc")
    assert head.out_features == len(units) and head.in_features == encoder.output_size
    assert AutoConfig.from_pretrained(BASE / "llm").model_type == "qwen2"


def test_a_word_is_a_token():
    tokenizer = AutoTokenizer.from_pretrained(BASE / "llm")
    for language in ALL:
        for meaning in some("train", 20):
            sentence = grammar.say(meaning, language)
            ids = tokenizer(sentence).input_ids
            assert tokenizer.decode(ids) == sentence
            if language not in text.UNSPACED and "'" not in sentence and "-" not in sentence:
                assert len(ids) == len(sentence.split()), sentence


def test_references(data, tmp_path, capsys, monkeypatch):
    """Of every test set: the floor is far off, and what the base models know is near."""
    make_parts_miniature.make_references(data, tmp_path)
    rows = load_rows(tmp_path / "references.json")
    values = {}
    for row in rows:
        if row["metric"] in ("wer", "cer", "bleu"):
            values.setdefault((row["curriculum"], row["task"]), []).append(row["value"])
    assert {key: len(found) for key, found in values.items()} == {
        ("floor", "asr"): 20,
        ("floor", "st"): 26,
        ("encoder_ctc", "asr"): 20,
        ("llm_text", "st"): 26,
        ("cascade", "st"): 26,
    }
    means = {key: np.mean(found) for key, found in values.items()}
    assert means["floor", "asr"] > 50 > 30 > means["encoder_ctc", "asr"] > 2
    assert means["floor", "st"] < 40 < means["cascade", "st"] < 85 < means["llm_text", "st"]
    make_parts_miniature.make_references(data, tmp_path)
    assert "is made" in capsys.readouterr().out
    # A file from before there was a cascade is made again.
    monkeypatch.setattr(make_parts_miniature, "SYSTEMS", ("encoder_ctc", "llm_text"))
    old = make_parts_miniature.digest(data, BASE)
    assert old != json.loads((tmp_path / "references.json").read_text())["digest"]
    with pytest.raises(ValueError, match="prepared.json is missing; stage 1 makes it"):
        make_parts_miniature.make_references(tmp_path, tmp_path)


@pytest.mark.slow
def test_base_models_are_trained_in_two_parts_kept_and_loadable(tmp_path, monkeypatch, capsys):
    module = train_miniature_base
    monkeypatch.setattr(module, "DEV_CLIPS", 1)

    def speak(folder, sizes, *more):  # the second conditions say what the first ones do
        if not folder.exists() and "varied_train" in sizes:
            shutil.copytree(folder.with_name("miniature_clean"), folder)
        elif not folder.exists():
            prepare_miniature.prepare(folder, {"clean_train": 2, "clean_dev": 1}, *more)

    monkeypatch.setattr(module, "prepare", speak)
    monkeypatch.setattr(module, "MEANINGS", 60)
    tiny = (
        {"width": 16, "ffn": 16, "layers": 2},
        {"width": 16, "heads": 2, "kv_heads": 2, "ffn": 16},
    )
    monkeypatch.setitem(module.SIZES, "tiny", (*tiny, 0.5))
    monkeypatch.setattr(module, "ENCODER", dataclasses.replace(module.ENCODER, batch=8))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})

    def make(steps):
        module.train_all(
            tmp_path / "out", tmp_path / "data", "tiny", None, steps, torch.device("cpu")
        )

    make(2)
    for folder in (tmp_path / "out/first", tmp_path / "out"):
        encoder = build_encoder("sensevoice", source=str(folder / "encoder"))
        head, units = load_ctc(folder / "ctc")
        assert head.weight.shape == (len(units), encoder.output_size) == (len(units), 16)
        assert AutoConfig.from_pretrained(folder / "llm").hidden_size == 16
    made = json.loads((tmp_path / "out/llm.made.json").read_text())
    assert made["recipe"]["lr"] == 0.5 * module.LLM_GOING_ON.lr and made["recipe"]["steps"] == 2
    before = (tmp_path / "out/encoder/model.safetensors").read_bytes()
    assert before != (tmp_path / "out/first/encoder/model.safetensors").read_bytes()
    capsys.readouterr()
    make(2)
    told = capsys.readouterr().out
    assert told.count("is there: kept") == 4 and "step" not in told
    with pytest.raises(ValueError, match=r"encoder.made.json: made with another recipe"):
        make(3)


def test_large_models_have_ten_times_the_parameters():
    base, large = (train_miniature_base.recipes(size, None) for size in ("base", "large"))
    assert base["encoder"][0] == train_miniature_base.ENCODER
    tokenizer = AutoTokenizer.from_pretrained(BASE / "llm")

    def count(model):
        return sum(p.numel() for p in model.parameters())

    with torch.device("meta"):
        encoders = [count(build_tiny_encoder(r["encoder"][0])) for r in (base, large)]
        llms = [count(build_llm(r["llm"][0], tokenizer)) for r in (base, large)]
    assert 9 < encoders[1] / encoders[0] < 11 and 9 < llms[1] / llms[0] < 11
    model = yaml.safe_load((ROOT / "conf/model/miniature_large.yaml").read_text())
    assert model["encoder"]["source"] == "exp/miniature_large_parts/encoder"


def test_missing_large_models_are_told_with_their_command(tmp_path):
    with pytest.raises(ValueError, match="train_miniature_base.py --size large .*--out .*nowhere"):
        make_parts_miniature.make_references(tmp_path, tmp_path, tmp_path / "nowhere")
