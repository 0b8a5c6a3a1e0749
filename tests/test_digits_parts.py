"""The digits corpus' pre-trained parts: units, stretched text, and folders that PART can load."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "local"))

import ctc_encoder  # noqa: E402
import digits_rows  # noqa: E402
import make_parts_digits  # noqa: E402
import text_lines  # noqa: E402
import text_llm  # noqa: E402
from digits_text import WORDS, say  # noqa: E402

from espnet_part.datadir import Row, write_datadir  # noqa: E402
from espnet_part.encoder import build_encoder  # noqa: E402
from espnet_part.prompt import Prompter  # noqa: E402

TEMPLATES = yaml.safe_load((ROOT / "conf/prompts.yaml").read_text(encoding="utf-8"))
TINY = dict(layers=2, width=16, heads=2, ffn=16, steps=2, batch=2, warmup=1)


@pytest.fixture(scope="module")
def prompter():
    return Prompter(text_lines.make_tokenizer(digits_rows.token_words(), TEMPLATES), TEMPLATES)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders train, dev and test with a clip each."""
    folder = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    for name, digits in (("train", "305"), ("dev", "111"), ("digits_test_asr_en", "777")):
        rows = []
        for clip in ("anna-0", "bert-0"):
            path = folder / f"{name}-{clip}.flac"
            soundfile.write(path, noise, 16000)
            text, speaker = say(digits, "en"), clip.split("-")[0]
            rows.append(
                Row(f"{clip}-asr", "asr", "en", "en", text, path=str(path), speaker=speaker)
            )
        write_datadir(folder / name, rows)
    st = [
        Row(f"{row.utt_id[:-4]}-st-de", "st", "en", "de", say("777", "de"), path=row.path,
            source=row.target, speaker=row.speaker)
        for row in rows
    ]  # fmt: skip
    write_datadir(folder / "digits_test_st_en_de", st)
    return folder


def test_pieces_are_short_and_reversible():
    text = say("0123456789", "en")
    units = ctc_encoder.pieces(text)
    assert units[:4] == ["▁ze", "ro", "▁on", "e"]
    assert all(len(u.removeprefix("▁")) <= 2 for u in units)
    assert ctc_encoder.join_pieces(units) == text


def test_batches_use_every_clip_and_keep_like_lengths_together():
    lengths = list(range(100, 164))
    plan = ctc_encoder.batches(lengths, 8, np.random.default_rng(0))
    epoch = [next(plan) for _ in range(8)]
    assert sorted(n for batch in epoch for n in batch) == list(range(64))
    assert all(max(batch) - min(batch) == 7 for batch in epoch)


def test_tokens_never_span_two_digits(prompter):
    for language in WORDS:
        assert len(prompter.target(say("0123456789", language))) == 11, language
        text = say("3050", language)
        assert prompter.decode(prompter.target(text)) == text
    other = "Grüße, 你好 <|im_end|>!"
    assert prompter.decode(prompter.target(other)) == other


def test_stretch_puts_blanks_between_tokens():
    rng = random.Random(0)
    assert text_lines.stretch([7, 7, 8], 0, rng, 0.0) == [7, 7, 8]
    lines = [text_lines.stretch([7, 7, 8, 9], 0, rng, 1.0) for _ in range(50)]
    assert all([t for t in line if t] == [7, 7, 8, 9] for line in lines)
    assert max(map(len, lines)) > 16 and len({len(line) for line in lines}) > 8


def test_rows_end_with_the_target_and_are_soft_only_for_speech(prompter):
    rows = digits_rows.make_lines(prompter, ["305"] * 50, random.Random(0))
    assert any(any(soft) for _, soft, _ in rows) and not all(any(soft) for _, soft, _ in rows)
    targets = [tuple(prompter.target(say("305", language))) for language in WORDS]
    blank = prompter.tokenizer.pad_token_id
    for ids, soft, n_target in rows:
        assert tuple(ids[-n_target:]) in targets
        assert not any(i == blank and not s for i, s in zip(ids, soft, strict=True))
    ids_BL, soft_BL, labels_BL = text_lines.collate(rows)
    assert (labels_BL >= 0).sum() == sum(row[2] for row in rows)
    assert (labels_BL[labels_BL >= 0] == ids_BL[labels_BL >= 0]).all()
    assert not (soft_BL & (labels_BL >= 0)).any()


def test_noise_is_only_where_speech_stands(prompter):
    recipe = text_llm.LLMRecipe(layers=1, width=16, heads=2, kv_heads=1, ffn=16)
    llm = text_llm.build_llm(recipe, prompter.tokenizer)
    rows = digits_rows.make_lines(prompter, ["305", "111", "999"] * 5, random.Random(0))
    ids_BL, soft_BL, _ = text_lines.collate(rows)
    quiet_BLD = text_llm.embed(llm, ids_BL, soft_BL, 0.0, None)
    loud_BLD = text_llm.embed(llm, ids_BL, soft_BL, 0.3, None)
    assert torch.equal(quiet_BLD[~soft_BL], loud_BLD[~soft_BL])
    assert not torch.equal(quiet_BLD[soft_BL], loud_BLD[soft_BL])
    assert 0 <= text_llm.exact_match(llm, rows) <= 100


def test_parts_are_made_loadable_and_kept(data, tmp_path, monkeypatch, capsys):
    # In this process: starting another one costs seconds.
    class Here:
        exitcode = 0

        def __init__(self, target, args):
            self.start = lambda: target(*args)

        def join(self):
            pass

    class Context:
        Process = Here

    threads = torch.get_num_threads()
    monkeypatch.setattr(make_parts_digits.multiprocessing, "get_context", lambda _: Context)
    encoder = ctc_encoder.EncoderRecipe(**TINY, speakers="all")
    llm = text_llm.LLMRecipe(**TINY, kv_heads=1)
    make_parts_digits.make_parts(data, tmp_path, encoder, llm)
    torch.set_num_threads(threads)
    assert "encoder: step 2/2" in capsys.readouterr().out
    built = build_encoder("sensevoice", source=str(tmp_path / "encoder"))
    assert len(built.layers) == 2 and built.waveform_scale == 32768.0
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llm")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "llm").config.vocab_size == len(
        tokenizer
    )
    assert Prompter(tokenizer, TEMPLATES).prompt("st", "en", "zh").has_speech
    rows = json.loads((tmp_path / "references.json").read_text())["results"]
    wer = [r for r in rows if r["metric"] == "wer"]
    assert [(r["curriculum"], r["test_set"], r["n_utts"]) for r in wer] == [
        ("encoder_ctc", "digits_dev", 2),
        ("encoder_ctc", "digits_test_asr_en", 2),
    ]
    bleu = [r for r in rows if r["metric"] == "bleu"]
    assert [(r["curriculum"], r["test_set"], r["n_utts"]) for r in bleu] == [
        ("llm_text", "digits_test_st_en_de", 2),
        ("cascade", "digits_test_st_en_de", 2),
    ]
    make_parts_digits.make_parts(data, tmp_path, encoder, llm)
    out = capsys.readouterr().out
    assert "encoder is made" in out and "references.json is made" in out
    # References of another time, or none, are made again; the parts stay.
    (tmp_path / "references.json").write_text('{"results": []}')
    make_parts_digits.make_parts(data, tmp_path, encoder, llm)
    assert json.loads((tmp_path / "references.json").read_text())["results"] == rows


def test_clear_errors(data, tmp_path):
    recipe = ctc_encoder.EncoderRecipe(**TINY, speakers="carl")
    with pytest.raises(ValueError, match="speakers carl; there are: anna, bert"):
        ctc_encoder.ctc_train(recipe, ctc_encoder.asr_rows(data / "train"))
    with pytest.raises(ValueError, match="stage 1 makes it"):
        make_parts_digits.make_parts(tmp_path, tmp_path / "out", recipe, text_llm.LLMRecipe())
