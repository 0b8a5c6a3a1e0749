"""Pseudo-translation: models of both kinds, work logs, kills, parts, filters, the folder."""

import inspect
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch
import toy_parts
import translate_filter
import translate_merge
import translate_transcripts
import translate_work
import translators
from translate_log import list_logs, log_path, read_lines
from translator_languages import find_codes, own_direction
from translator_models import Asking, Translation
from translators import ModelSpec, check_model, load_translator

from espnet_part.datadir import Row, iter_rows, write_datadir

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["one two three", "four", "five six seven eight nine zero one two", "eins </s> __de__ drei"]


# ----- models -----


def pieces(folder: Path) -> list[str]:
    """A SentencePiece model in two files under their names in OPUS-MT and M2M100; its pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(toy_parts.TEXT),
        model_writer=model,
        vocab_size=300,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    for name in ("source.spm", "target.spm", "sentencepiece.bpe.model"):
        (folder / name).write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    found = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    return [piece for piece in found if piece not in ("<s>", "</s>", "<unk>")]


def save(model, folder: Path) -> str:
    """Saves a model with random weights large enough for its output to vary."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.12 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return str(folder)


SIZES = dict(
    d_model=32,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
    max_position_embeddings=64,
)


def make_marian(folder: Path, codes=(">>deu<<", ">>jpn<<"), **names) -> str:
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    vocab = ["</s>", "<unk>", *pieces(folder), *codes, "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(vocab)}))
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    MarianTokenizer(*files, **names).save_pretrained(folder)
    pad = len(vocab) - 1
    config = MarianConfig(
        vocab_size=len(vocab),
        pad_token_id=pad,
        decoder_start_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=0,  # as OPUS-MT's
        **SIZES,
    )
    return save(MarianMTModel(config), folder)


def make_m2m(folder: Path) -> str:
    from transformers import M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer

    # Pieces of words that look like codes, as the real one has.
    vocab = ["<s>", "<pad>", "</s>", "<unk>", *pieces(folder), "en", "de", "it", "yue"]
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(vocab)}))
    files = [str(folder / name) for name in ("vocab.json", "sentencepiece.bpe.model")]
    M2M100Tokenizer(*files).save_pretrained(folder)
    config = M2M100Config(vocab_size=len(vocab) + 108, **SIZES)
    return save(M2M100ForConditionalGeneration(config), folder)


def make_nllb(folder: Path) -> str:
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    chars = sorted(set("".join(toy_parts.TEXT)))
    vocab = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", "▁", *chars])
    tokenizer = NllbTokenizer(
        vocab={piece: i for i, piece in enumerate(vocab)},
        merges=[],
        additional_special_tokens=["eng_Latn", "deu_Latn", "jpn_Jpan"],
    )
    tokenizer.save_pretrained(folder)
    config = M2M100Config(vocab_size=len(tokenizer), **SIZES)
    return save(M2M100ForConditionalGeneration(config), folder)


MAKERS = {"marian": make_marian, "m2m": make_m2m, "nllb": make_nllb, "chat": toy_parts.make_llm}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """``models(kind)``: folder of a tiny model."""
    made: dict[str, str] = {}

    def get(kind: str) -> str:
        if kind not in made:
            made[kind] = MAKERS[kind](tmp_path_factory.mktemp(kind))
        return made[kind]

    return get


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_translation_does_not_depend_on_its_batch(models, kind, num_beams):
    asking = Asking(num_beams=num_beams, max_ratio=0.5)
    translator = load_translator(ModelSpec(models(kind), asking=asking), "cpu", "float32")
    ids = translator.encode(TEXTS, "en", "de")
    assert len({len(row) for row in ids}) > 2
    together = translator.generate(ids, "en", "de")
    assert together == [translator.generate([row], "en", "de")[0] for row in ids]
    assert together == translator.generate(ids[::-1], "en", "de")[::-1]
    assert len({found.text for found in together}) > 1 or kind == "m2m"


def test_the_limit_of_new_tokens_is_per_row_and_told(models):
    translator = load_translator(ModelSpec(models("marian")), "cpu", "float32")
    ids = translator.encode(TEXTS, "en", "de")
    counted = []
    translator._text = lambda new: counted.append(len(new)) or ""
    found = translator.generate(ids, "en", "de")
    limits = [min(16 + 3 * len(row), 63) for row in ids]
    assert any(result.cut for result in found)
    for result, count, limit in zip(found, counted, limits, strict=True):
        assert (count == limit) if result.cut else (count < limit)


@pytest.mark.parametrize(
    ("kind", "first", "last"),
    [
        ("marian", ">>deu<<", "</s>"),
        ("m2m", "__en__", "</s>"),
        ("nllb", "eng_Latn", "</s>"),
    ],
)
def test_languages_are_told_and_texts_cannot_spell_special_tokens(models, kind, first, last):
    translator = load_translator(ModelSpec(models(kind)), "cpu", "float32")
    tokens = translator.tokenizer.convert_ids_to_tokens(translator.encode(TEXTS, "en", "de")[3])
    assert (tokens[0], tokens[-1]) == (first, last)
    assert "</s>" not in tokens[:-1] and "__de__" not in tokens
    seen = {}
    generate = translator.model.generate
    translator.model.generate = lambda **given: seen.update(given) or generate(**given)
    translator.generate(translator.encode(TEXTS[:2], "en", "ja"), "en", "ja")
    config = seen["generation_config"]
    assert config.forced_eos_token_id is None
    if kind != "marian":
        wanted = translator.languages.tokens["ja"]
        forced = config.forced_bos_token_id
        assert translator.tokenizer.convert_ids_to_tokens(forced) == wanted


def test_a_chat_llm_is_padded_on_the_left_and_only_answers(models):
    spec = ModelSpec(models("chat"), asking=Asking("To {tgt}: {text}", max_ratio=9.0))
    translator = load_translator(spec, "cpu", "float32")
    ids = translator.encode(["one", "two three <|im_end|>"], "en", "de")
    shown = translator.tokenizer.decode(ids[0])
    assert shown == "<|im_start|>user\nTo German: one<|im_end|>\n<|im_start|>assistant\n"
    end = translator.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids[1].count(end) == 1
    seen = {}

    def generate(input_ids, attention_mask, **_):
        seen.update(ids=input_ids.tolist(), mask=attention_mask.tolist())
        answer = translator.tokenizer("<think>hm</think> eins").input_ids
        return torch.cat([input_ids, torch.tensor([[*answer, end, 5]] * 2)], 1)

    translator.model.generate = generate
    found = translator.generate(ids, "en", "de")
    assert found == [Translation("eins", False)] * 2
    padded = len(ids[1]) - len(ids[0])
    assert seen["mask"][0] == [0] * padded + [1] * len(ids[0])
    assert seen["ids"][0][padded:] == ids[0]


def test_language_codes(models, tmp_path):
    def codes(kind):
        return find_codes(translators.load_parts(ModelSpec(models(kind)))[2])

    assert codes("marian").tokens == {"de": ">>deu<<", "ja": ">>jpn<<"}
    assert codes("nllb").codes == {"en": "eng_Latn", "de": "deu_Latn", "ja": "jpn_Jpan"}
    assert codes("m2m").tokens["sv"] == "__sv__" and "yue" not in codes("m2m").codes

    class Madlad:
        def get_vocab(self):
            return {"<2de>": 5, "<2zh>": 6, "<2yue>": 7, "de": 8}

    assert find_codes(Madlad()).tokens == {"de": "<2de>", "zh": "<2zh>", "yue": "<2yue>"}
    one = make_marian(tmp_path, codes=(), source_lang="eng", target_lang="de")
    tokenizer = translators.load_parts(ModelSpec(one))[2]
    assert find_codes(tokenizer).scheme == "fixed"
    assert own_direction(tokenizer) == ("en", "de")
    check_model(ModelSpec(one), [("en", "de")])
    with pytest.raises(ValueError, match="en to ja to translate, but the model is for en to de"):
        check_model(ModelSpec(one), [("en", "ja")])
    with pytest.raises(ValueError, match="one direction; found en to de, en to ja"):
        check_model(ModelSpec(one), [("en", "de"), ("en", "ja")])


def test_models_that_cannot_do_it_are_refused(models, parts, tmp_path):
    def refused(source, pairs=(("en", "de"),), **asking):
        with pytest.raises(ValueError) as caught:
            check_model(ModelSpec(str(source), asking=Asking(**asking)), list(pairs))
        return str(caught.value)

    assert "no such folder" in refused(tmp_path / "missing")
    assert "could not be loaded" in refused(tmp_path)
    assert "without a chat template" in refused(parts("sentencepiece"))
    assert "does not know yue (Cantonese)" in refused(models("m2m"), [("en", "yue")])
    assert "does not know fr (French)" in refused(models("nllb"), [("fr", "de")])
    assert "has language codes" in refused(models("m2m"), prompt="{text}")
    assert "bad slot" in refused(models("chat"), prompt="{language} {text}")
    assert "expected {text} in it, once" in refused(models("chat"), prompt="Translate!")
    from transformers import BertConfig, BertModel

    toy_parts.make_tokenizer("byte").save_pretrained(tmp_path / "bert")
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    config = BertConfig(vocab_size=400, is_decoder=False, **sizes)
    config.model_type = "wav2vec2"
    BertModel(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "wav2vec2"}))
    assert "wav2vec2 model is neither" in refused(tmp_path / "bert")


# ----- the whole command, with a model that spells words backwards -----


class Backwards:
    """Stands for a model; notes what it was asked."""

    asking = Asking()

    def __init__(self, spy: Path, pause: float = 0.0):
        self.spy, self.pause = spy, pause

    def encode(self, texts, src, tgt):
        return [[ord(char) for char in text] for text in texts]

    def fits(self, ids):
        return len(ids) < 200

    def generate(self, ids, src, tgt):
        texts = ["".join(map(chr, row)) for row in ids]
        time.sleep(self.pause)
        with self.spy.open("a") as file:
            file.writelines(f"{tgt} {text}\n" for text in texts)
        return [self.answer(text, tgt) for text in texts]

    def answer(self, text, tgt):
        return Translation(" ".join(word[::-1] for word in text.split()), False)


def make_rows(clips: int, texts: int) -> list[Row]:
    """Asr rows with `texts` different sentences, and an st row among them."""
    rng = random.Random(0)
    words = ["".join(rng.choices("bdfgklmnprt", k=2)) + "aeiou"[i % 5] * 2 for i in range(40)]
    said = [" ".join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(texts)]
    rows = [
        Row(
            utt_id=f"clip{i:04d}-asr",
            task="asr",
            src="en",
            tgt="en",
            target=said[i % texts],
            path=f"audio/{i}.flac",
            start_sec=0.5 * i,
            end_sec=0.5 * i + 1,
            speaker=f"s{i % 3}",
        )
        for i in range(clips)
    ]
    given = replace(rows[0], utt_id="clip0000-st-fr", task="st", tgt="fr", source=said[0])
    return [*rows, given]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """``command(*options)``: calls the command in this process with a model of this test's."""
    spy = tmp_path / "spy.txt"
    model = Backwards(spy)
    write_datadir(tmp_path / "in", make_rows(40, 30))

    def call(*options, model=model, data="in", out="out", tgt=("de", "it")):
        monkeypatch.setattr(translators, "load_translator", lambda *_: model)
        monkeypatch.setattr(translators, "check_model", lambda spec, _: {"model": spec.source})
        fixed = [str(tmp_path / data), str(tmp_path / out), "--model", "m", "--ngpu", "0"]
        fixed += ["--batch_tokens", "100", "--tgt", *tgt]
        args = translate_transcripts.get_parser().parse_args([*fixed, *options])
        translate_transcripts.run(args)

    call.asked = lambda: spy.read_text().splitlines() if spy.exists() else []
    call.model, call.folder = model, tmp_path
    return call


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def content(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in snapshot(folder).items() if name != ".stamp.json"}


def test_rows_ids_audio_and_texts(command, capsys):
    command("--mt", str(command.folder / "mt"))
    source = {row.utt_id: row for row in make_rows(40, 30) if row.task == "asr"}
    rows = list(iter_rows(command.folder / "out"))
    assert len(rows) == 80
    for row in rows:
        clip, tgt = row.utt_id.rsplit("-st-", 1)
        asr = source[f"{clip}-asr"]
        answer = command.model.answer(asr.target, tgt).text
        wanted = replace(asr, utt_id=row.utt_id, task="st", tgt=tgt, source=asr.target)
        assert row == replace(wanted, target=answer)
    # Each different text once per target, and nothing else.
    assert Counter(command.asked()) == Counter(
        {f"{tgt} {row.target}" for row in source.values() for tgt in ("de", "it")}
    )
    shown = capsys.readouterr().out
    assert "41 rows, 40 of them asr" in shown and "80 st rows; left out 0" in shown
    mt = list(iter_rows(command.folder / "mt"))
    assert [row.utt_id for row in mt] == [f"mt-{row.utt_id}" for row in rows]
    assert {row.task for row in mt} == {"mt"}


def test_a_second_run_does_nothing_even_without_the_logs(command):
    command()
    times = {p: p.stat().st_mtime_ns for p in (command.folder / "out").rglob("*") if p.is_file()}
    asked = command.asked()
    command()
    assert {p: p.stat().st_mtime_ns for p in times} == times
    for path in list_logs(command.folder / "out"):
        path.unlink()
    command()
    assert command.asked() == asked


class Broken(Backwards):
    """Ends after some batches as if killed."""

    left = 3

    def generate(self, ids, src, tgt):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().generate(ids, src, tgt)


def test_broken_off_and_torn_runs_go_on(command):
    command(out="whole")
    asked = command.asked()
    command.model.spy.unlink()
    broken = Broken(command.model.spy)
    with pytest.raises(KeyboardInterrupt):
        command(model=broken)
    assert 0 < len(command.asked()) < len(asked)
    out = command.folder / "out"
    assert not (out / "utt2task").exists()
    path = log_path(out, 1, 1)
    kept = path.read_bytes()
    path.write_bytes(kept + kept.splitlines()[-1][:25])
    command()
    assert sorted(command.asked()) == sorted(asked)
    assert content(out) == content(command.folder / "whole")
    assert all(set(line) & {"settings", "key", "done"} for _, line in read_lines(path))
    # A line within is no torn one.
    damaged = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([damaged[0], b'{"key', *damaged[1:]]))
    (out / ".stamp.json").unlink()
    with pytest.raises(ValueError, match="damaged at byte"):
        command()


def test_every_cut_of_the_log_goes_on(command):
    """Wherever a kill cuts the log, the rows come out the same and no text is asked for twice."""
    rows = [row for row in make_rows(6, 5) if row.task == "asr"]
    write_datadir(command.folder / "few", rows)
    command(data="few")
    out = command.folder / "out"
    wanted, log = content(out), log_path(out, 1, 1).read_bytes()
    for cut in range(0, len(log), 97):
        for name in (*wanted, ".stamp.json"):
            (out / name).unlink()
        log_path(out, 1, 1).write_bytes(log[:cut])
        whole = log[:cut].split(b"\n")[:-1]
        noted = sum(line.startswith(b'{"key') for line in whole)
        command.model.spy.unlink()
        command.model.spy.touch()
        command(data="few")
        assert content(out) == wanted
        assert len(command.asked()) == 10 - noted


def test_changed_settings_are_refused_until_restarted(command):
    command()
    with pytest.raises(
        ValueError, match=r"made with tgt \[.de., .it.\], now \[.de.\]; give --rest"
    ):
        command(tgt=("de",))
    with pytest.raises(ValueError, match='made with model "m", now "other"'):
        command("--model", "other")
    rows = make_rows(40, 30)
    write_datadir(command.folder / "in", [replace(rows[0], target="anders"), *rows[1:]])
    with pytest.raises(ValueError, match="made with data_files"):
        command()
    asked = len(command.asked())
    command("--restart")
    assert len(command.asked()) > asked
    assert len(list(iter_rows(command.folder / "out"))) == 80


def test_parts_are_the_whole_and_the_last_one_writes(command):
    command(out="whole")
    asked = command.asked()
    command.model.spy.unlink()
    out = command.folder / "out"
    for part in ("3", "1"):
        command("--part", part, "--parts", "3")
        assert not (out / "utt2task").exists()
    with pytest.raises(ValueError, match="not translated to the end yet: part 2 of 3"):
        command("--merge")
    assert 0 < len(command.asked()) < len(asked)
    with (
        translate_work.lock(log_path(out, 2, 3), "part 2 of 3"),
        pytest.raises(ValueError, match="another process is working on part 2 of 3"),
    ):
        command("--part", "2", "--parts", "3")
    command("--part", "2", "--parts", "3")
    assert sorted(command.asked()) == sorted(asked)
    assert content(out) == content(command.folder / "whole")
    command("--merge")


def test_another_number_of_parts_goes_on_with_what_is_there(command):
    command(out="whole")
    asked = command.asked()
    command.model.spy.unlink()
    command("--part", "1", "--parts", "3")
    command()
    assert sorted(command.asked()) == sorted(asked)
    assert content(command.folder / "out") == content(command.folder / "whole")


# ----- real processes -----

# The command with a model that needs no files, and without what takes long to import.
DRIVER = """
import os, signal, sys, types
sys.path[:0] = [{root!r}, {local!r}]
from pathlib import Path
import time
stub = types.ModuleType("translators")
sys.modules["translators"] = stub
from translator_models import Asking, Translation
{backwards}
class Model(Backwards):
    def generate(self, ids, src, tgt):
        if os.environ.get("DIES") in sys.argv:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(ids, src, tgt)
stub.ModelSpec = lambda source, *_: source
stub.check_model = lambda source, pairs: {{"model": source}}
stub.load_translator = lambda *_: Model(Path({spy!r}), {pause})
import translate_transcripts
translate_transcripts.main()
"""


def write_driver(command, pause: float = 0.0) -> str:
    script = command.folder / "driver.py"
    values = {"root": str(ROOT), "local": str(ROOT / "local"), "spy": str(command.model.spy)}
    backwards = inspect.getsource(Backwards)
    script.write_text(DRIVER.format(backwards=backwards, pause=pause, **values))
    return str(script)


def test_kill_9_then_the_same_command_again(command):
    command(out="whole")
    asked = command.asked()
    command.model.spy.unlink()
    fixed = [str(command.folder / "in"), str(command.folder / "out"), "--model=m", "--ngpu=0"]
    fixed += ["--batch_tokens=100", "--tgt", "de", "it"]
    child = subprocess.Popen([sys.executable, write_driver(command, pause=0.2), *fixed])
    while len(command.asked()) < 8 and child.poll() is None:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    out = command.folder / "out"
    noted = sum("key" in line for _, line in read_lines(log_path(out, 1, 1)))
    before = command.asked()
    assert 0 < noted <= len(before) < len(asked)
    command()
    assert len(command.asked()) - len(before) == len(asked) - noted
    assert content(out) == content(command.folder / "whole")


def test_two_processes_and_one_that_dies(command, monkeypatch, caplog):
    command(out="whole")
    asked = command.asked()
    command.model.spy.unlink()
    monkeypatch.setattr(sys, "argv", [write_driver(command)])
    monkeypatch.setenv("DIES", "--part=2")
    with pytest.raises(ValueError) as caught:
        command("--nj=2")
    shown = str(caught.value)
    assert "1 of 2 processes failed" in shown and "the same command goes on" in shown
    assert "part 2 of 2 was killed by signal 9; see" in shown and "part-2-of-2.log" in shown
    assert 0 < len(command.asked()) < len(asked)
    monkeypatch.delenv("DIES")
    caplog.set_level("INFO")
    command("--nj=2")
    assert sorted(command.asked()) == sorted(asked)
    assert content(command.folder / "out") == content(command.folder / "whole")
    assert f"{len(asked)} of {len(asked)} texts (100 %)" in caplog.text


# ----- filters -----

LONG = "the committee has decided to meet again in the spring of next year"
GERMAN = "der Ausschuss hat beschlossen, im Frühjahr nächsten Jahres wieder zu tagen"
PLANTED = [  # source, translation, target, cut, reason
    (LONG, GERMAN, "de", False, None),
    ("...", "", "de", False, "empty source"),
    ("yes please do", " - ", "de", False, "empty"),
    (LONG + " please", "Ich kann Ihnen dabei leider nicht helfen.", "de", False, "refusal"),
    (LONG + " again", "der Rat der Rat der Rat der Rat der Rat", "de", False, "loop"),
    ("no no no no no", "nein nein nein nein nein", "de", False, None),
    (LONG + " and so on", GERMAN + " und", "de", True, "hit max_new_tokens"),
    ("we sang Let It Be", "We sang, let it be!", "de", False, "copied source"),
    ("Barack Obama", "Barack Obama", "de", False, None),
    ("3 14 15 92", "3 14 15 92", "de", False, None),
    (LONG + " too", "le comité a décidé de se réunir au printemps", "de", False, "wrong language"),
    (LONG + " here", GERMAN, "ja", False, "wrong language"),
    (LONG + " there", "委員会来春再度会合決定", "ja", False, "wrong language"),
    (LONG + " today", "委員会は来年の春にまた集まることを決めた", "ja", False, None),
    (LONG, "委员会决定明年春天再次开会", "zh", False, None),
    (LONG + " now", "呢個委員會決定咗出年春天再開會嘅", "zh", False, "wrong language"),
    ("thanks", "vielen herzlichen Dank", "de", False, None),
    ("good day", GERMAN + ", " + GERMAN[4:], "de", False, "too long"),
    (LONG + ", and the year after that", "der Ausschuss", "de", False, "too short"),
    ("x" * 300, None, "de", False, "source too long"),
]


class Planted(Backwards):
    def fits(self, ids):
        return len(ids) < 300

    def answer(self, text, tgt):
        return next(Translation(p[1], p[3]) for p in PLANTED if (p[0], p[2]) == (text, tgt))


def test_each_filter_with_its_count_and_listing(command, capsys):
    wanted = {}
    for tgt in ("de", "ja", "zh"):
        planted = [(i, p) for i, p in enumerate(PLANTED) if p[2] == tgt]
        base = make_rows(1, 1)[0]
        rows = [replace(base, utt_id=f"c{i:02d}-asr", target=p[0]) for i, p in planted]
        write_datadir(command.folder / f"in_{tgt}", rows)
        model = Planted(command.folder / f"spy_{tgt}")
        command(model=model, data=f"in_{tgt}", out=f"out_{tgt}", tgt=(tgt,))
        reasons = {f"c{i:02d}-st-{tgt}": p[4] for i, p in planted}
        out = command.folder / f"out_{tgt}"
        listed = [line.split("\t") for line in (out / "skipped.tsv").read_text().splitlines()]
        assert {utt_id: reason for utt_id, reason, _ in listed} == {
            utt_id: reason for utt_id, reason in reasons.items() if reason
        }
        kept = {utt_id for utt_id, reason in reasons.items() if not reason}
        assert {row.utt_id for row in iter_rows(out)} == kept
        wanted[tgt] = Counter(reason for reason in reasons.values() if reason)
        shown = capsys.readouterr().out
        for reason, rows in wanted[tgt].items():
            assert f"  {rows:8,}  {reason}\n" in shown
    assert wanted["de"]["too long"] == wanted["de"]["loop"] == 1 and wanted["ja"].total() == 2
    assert "x" * 300 not in (command.folder / "spy_de").read_text()
    assert "..." not in (command.folder / "spy_de").read_text().splitlines()


def test_copies_of_two_words_or_four_ideographs_are_names():
    for source, src, copy in (
        ("New York", "en", False),
        ("New York City", "en", True),
        ("ｎｅｗ york city", "en", True),
        ("東京都庁", "ja", False),
        ("東京都庁舎", "ja", True),
        ("12 34 56", "en", False),
        ("서울 특별시", "ko", False),
    ):
        assert translate_filter.is_copy(source, source.upper() + ".", src) is copy


def test_measure_counts_what_it_drops(tmp_path, capsys, monkeypatch):
    texts = {"en": [LONG, "good morning to you all"], "de": [GERMAN, "good morning to you all"]}
    expansion, dropped = translate_filter.measure(texts)
    assert dropped["en", "de"] == Counter({"copied source": 1})
    assert expansion["en"] == 1.0 and 1 < expansion["de"] < 1.3
    for lang, lines in texts.items():
        (tmp_path / f"n.{lang}").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "n.en"), str(tmp_path / "n.de")])
    translate_filter.main()
    assert "en -> de: 50.00 % of 2  1 copied source" in capsys.readouterr().out
    (tmp_path / "n.de").write_text("eins\n")
    with pytest.raises(SystemExit, match="found 1 lines"):
        translate_filter.main()


# ----- pieces -----


def test_rows_come_in_the_order_of_their_ids():
    rng = random.Random(0)
    for _ in range(300):
        clips = {"".join(rng.choices("a-st.z", k=rng.randint(1, 5))) for _ in range(12)}
        ids = sorted(f"{clip}{rng.choice(['', '-asr', '-asr'])}" for clip in clips)
        base = make_rows(1, 1)[0]

        def groups(ids=ids, base=base):
            for utt_id in ids:
                clip = utt_id.removesuffix("-asr")
                yield utt_id, [replace(base, utt_id=f"{clip}-st-{t}") for t in ("de", "ja")]

        found = [row.utt_id for row in translate_merge.in_order(groups())]
        assert found == sorted(found) and len(found) == 2 * len(ids)


def test_few_rows_are_held():
    """Clips of one recording do not hold each other up."""
    base, most, given = make_rows(1, 1)[0], 0, 0

    def groups():
        nonlocal given
        for i in range(1000):
            given += 1
            yield f"rec1-{i:04d}-asr", [replace(base, utt_id=f"rec1-{i:04d}-st-de")]

    for taken, _ in enumerate(translate_merge.in_order(groups())):
        most = max(most, given - taken)
    assert most <= 2


def test_a_batch_too_large_for_the_gpu_is_halved(monkeypatch):
    class Small(Backwards):
        def generate(self, ids, src, tgt):
            if sum(map(len, ids)) > 20:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return [Translation(str(row), False) for row in ids]

    model = Small(Path())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    ids = [[i] * 5 for i in range(9)]
    found = translate_work._generate(model, ids, "en", "de")
    assert [result.text for result in found] == [str(row) for row in ids]
    with pytest.raises(ValueError, match="a text of 30 tokens does not fit"):
        translate_work._generate(model, [[1] * 30], "en", "de")


def test_batches_keep_to_the_budget_and_hold_like_lengths(tmp_path):
    model = Backwards(tmp_path / "spy")
    model.asking = Asking(num_beams=2)
    seen = []
    model.generate = lambda ids, src, tgt: seen.append(ids) or [Translation("", False)] * len(ids)
    rng = random.Random(0)
    texts = [(bytes([i]), "x" * rng.randint(1, 60)) for i in range(100)]
    texts += [(b"long", "y" * 150), (b"longer", "z" * 250)]
    noted = [
        line for b in translate_work._translate(model, texts, "en", "de", 400, int) for line in b
    ]
    assert sorted(line[:2] for line in noted) == sorted(texts)
    assert [line[0] for line in noted if line[2] is None] == [b"longer"]
    costs = [2 * len(ids) * max(map(len, ids)) for ids in seen]
    assert all(cost <= 400 or len(ids) == 1 for cost, ids in zip(costs, seen, strict=True))
    lengths = [len(row) for ids in seen for row in ids]
    assert lengths == sorted(lengths, reverse=True) and len(seen) < 50


def test_messages_for_what_the_user_can_mend(command):
    def refused(*options, **changes):
        with pytest.raises(ValueError) as caught:
            command(*options, **changes)
        return str(caught.value)

    assert "--tgt: unknown language 'deu'" in refused(tgt=("deu",))
    assert "no such data folder" in refused(data="missing")
    assert "expected another folder" in refused(out="in")
    assert "nothing to translate" in refused(tgt=("en",))
    assert "expected 1 to 2" in refused("--part", "3", "--parts", "2")
    assert "expected both or none" in refused("--part", "3")
    assert "--batch_tokens: found 0" in refused("--batch_tokens", "0")
    assert "a folder of its own" in refused("--mt", str(command.folder / "out"))
    assert "not translated to the end yet: everything" in refused("--merge")
    assert "found 0 GPUs" in refused("--ngpu", "2") or torch.cuda.device_count()
    write_datadir(command.folder / "text", [Row("m", "mt", "en", "de", "a", source="b")])
    assert "found a text folder" in refused(data="text")


def test_a_child_ends_when_its_parent_is_gone(command, monkeypatch):
    monkeypatch.setattr(os, "getppid", lambda: 1 if len(command.asked()) > 5 else 77)
    with pytest.raises(ValueError, match="the process that started this one has ended"):
        command("--part", "1", "--parts", "1", "--child_of", "77")
    assert 5 < len(command.asked()) < 20


def test_help_shows_commands_and_licenses():
    shown = translate_transcripts.get_parser().format_help()
    for words in ("--tgt zh ja de --ngpu 4", "CC BY-NC 4.0", "skipped.tsv", "--restart"):
        assert words in shown
