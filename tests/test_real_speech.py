"""Real speech through the whole recipe: 24 clips of FLEURS as two corpora, the miniature's model.

Not for its error rate, which is that of a toy: to show that nothing between a corpus's own files
and the report is made for synthetic audio only.
"""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import real_data
import soundfile
from test_recipe import make_recipe, run

from espnet_part.audio import load_audio

ROOT = Path(__file__).resolve().parents[1]
CLIPS = real_data.DATA / "fleurs_clips"
FLEURS = {"en": "en_us", "de": "de_de", "ja": "ja_jp", "zh": "cmn_hans_cn"}
# Of each language: what is in which split; the longest German clip (43 s) is in train.
SPLITS = {"en": (8, 10), "de": (6, 7), "ja": (0, 0), "zh": (0, 0)}
PAIRS = [("de", "en"), ("en", "de"), ("en", "ar")]
SETS = {
    "fleurs_test_asr_en": 2,
    "fleurs_test_asr_de": 3,
    "fleurs_test_asr_ja": 1,
    "fleurs_test_asr_zh": 1,
    "covost2_test_st_de_en": 3,
    "covost2_test_st_en_de": 2,
    "covost2_test_st_en_ar": 2,
}
LONGEST = "fleurs-de-009"

pytestmark = [
    pytest.mark.recipe,
    pytest.mark.timeout(1200),
    real_data.needs("fleurs_clips"),
]


def read_clips():
    """{language: [rows of clips.tsv]}; the German clip that is too long to train on comes first."""
    with (CLIPS / "clips.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows.sort(key=lambda row: row["uid"] != LONGEST)
    return {lang: [row for row in rows if row["src_lang"] == lang] for lang in FLEURS}


def split_of(lang, number):
    train, dev = SPLITS[lang]
    return "train" if number < train else "dev" if number < dev else "test"


def write_fleurs(root, clips):
    """Hugging Face's layout of FLEURS, google/fleurs: fleurs.py, unpacked."""
    for lang, rows in clips.items():
        folder = root / "data" / FLEURS[lang]
        for number, row in enumerate(rows):
            split = split_of(lang, number)
            (folder / "audio" / split).mkdir(parents=True, exist_ok=True)
            wave, rate = soundfile.read(CLIPS / row["path"])
            name = f"{1000 + number}{row['flores_devtest_line']}.wav"
            soundfile.write(folder / "audio" / split / name, wave, rate)
            text = row["asr_text"]
            fields = [row["flores_devtest_line"], name, text, text.lower(), " ".join(text) + " |"]
            with (folder / f"{split}.tsv").open("a", encoding="utf-8") as file:
                file.write("\t".join([*fields, str(len(wave)), "FEMALE"]) + "\n")


def write_covost(root, clips):
    """facebookresearch/covost: README.md's files beside Common Voice 4, clips as MP3 of 48 kHz."""
    for lang in ("de", "en"):
        (root / lang / "clips").mkdir(parents=True)
        with (root / lang / "validated.tsv").open("w", encoding="utf-8") as file:
            file.write("client_id\tpath\tsentence\tup_votes\tdown_votes\n")
            for number, row in enumerate(clips[lang]):
                clip = f"common_voice_{lang}_{number}.mp3"
                file.write(f"{number:0128x}\t{clip}\t{row['asr_text']}\t2\t0\n")
                wave = load_audio(CLIPS / row["path"]).repeat(3)
                soundfile.write(root / lang / "clips" / clip, wave, 48000, format="MP3")
    for src, tgt in PAIRS:
        with (root / f"covost_v2.{src}_{tgt}.tsv").open("w", encoding="utf-8") as file:
            file.write("path\ttranslation\tsplit\n")
            for number, row in enumerate(clips[src]):
                clip, split = f"common_voice_{src}_{number}.mp3", split_of(src, number)
                file.write(f"{clip}\t{row[tgt]}\t{split}\n")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    root = tmp_path_factory.mktemp("real")
    clips = read_clips()
    write_fleurs(root / "fleurs", clips)
    write_covost(root / "covost", clips)
    recipe = make_recipe(root / "egs2/part_multilingual/s2t1")
    (root / "egs2/part_multilingual/s2t1/local").unlink()
    # As the repository has it: the base models are found under local/ of the recipe.
    (root / "egs2/part_multilingual/s2t1/local").symlink_to(ROOT / "local")
    result = run(
        recipe,
        *"./run.sh --model miniature --part_tag real --stop_stage 13 --decode_phases last".split(),
        *"--nj 2 --inference_nj 1 --max_wav_duration 30".split(),
        *("--corpora", "fleurs covost2"),
        *("--part_args", "max_steps=2 warmup_steps=1 valid_interval=2 save_interval=2"),
        FLEURS=root / "fleurs",
        COVOST2=root / "covost",
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    yield recipe, clips, result.stdout
    shutil.rmtree(root, ignore_errors=True)


def test_every_clip_arrives(ran):
    recipe, clips, said = ran
    for name, rows in SETS.items():
        folder = recipe / "dump/raw" / name
        assert len((folder / "utt2task").read_text().splitlines()) == rows, name
    # The long clip is left out of training, twice (asr, st), and told.
    for folder in ("fleurs_train_de", "covost2_train_de_en"):
        skipped = (recipe / "dump/raw" / folder / "skipped.tsv").read_text().splitlines()
        assert [line.split("\t")[1] for line in skipped] == ["longer than 30 s"]
    assert "longer than 30 s" in said
    wavs = (recipe / "dump/raw/covost2_test_st_en_ar/wav.scp").read_text().split()[1::2]
    texts = dict(
        line.split(" ", 1)
        for line in (recipe / "dump/raw/covost2_test_st_en_ar/text").read_text().splitlines()
    )
    for number, row in enumerate(clips["en"][10:]):
        assert texts[f"common_voice_en_{10 + number}-st-ar"] == row["ar"]
    seconds = sorted(len(load_audio(recipe / path)) / 16000 for path in set(wavs))
    wanted = sorted(float(row["dur_s"]) for row in clips["en"][10:])
    assert seconds == pytest.approx(wanted, abs=0.1)


def test_every_set_is_decoded_scored_and_reported(ran):
    recipe, clips, _ = ran
    rows = json.loads((recipe / "exp/real/results.json").read_text())["results"]
    ours = [row for row in rows if row["curriculum"] == "part" and row["phase"] == "3"]
    values = {(row["test_set"], row["metric"]): row for row in ours}
    for name, count in SETS.items():
        metric = "bleu" if "_st_" in name else "cer" if name[-2:] in ("ja", "zh") else "wer"
        assert values[name, metric]["n_utts"] == count, name
        (decode,) = (recipe / "exp/real/part/phase3").glob("decode_*_latest")
        assert len((decode / name / "text").read_text().splitlines()) == count
    # The reference is what FLEURS says, cased and punctuated.
    test = recipe / "dump/raw/fleurs_test_asr_zh/text"
    assert test.read_text(encoding="utf-8").strip().split(" ", 1)[1] == clips["zh"][0]["asr_text"]
    page = (recipe / "exp/real/report.html").read_text(encoding="utf-8")
    for name in SETS:
        assert name in page
    assert "fleurs_test_asr_en" in (recipe / "exp/real/RESULTS.md").read_text()


def test_training_saw_each_task(ran):
    recipe, _, _ = ran
    log = (recipe / "exp/real/part/phase3/train.log").read_text()
    for task in ("asr", "st", "mt"):
        assert re.search(rf"^\S* *{task} +(de|en)-?(en|de|ar)? ", log, re.M), task
    assert (recipe / "exp/real/part/phase3/.finished").exists()
