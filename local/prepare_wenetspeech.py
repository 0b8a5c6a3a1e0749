"""WenetSpeech: Mandarin from YouTube and podcasts, 10,000 hours, as data folders.

    python local/prepare_wenetspeech.py /corpora/wenetspeech data/wenetspeech
    python local/prepare_wenetspeech.py /corpora/wenetspeech data/wenetspeech --subset m w

Card
  language  Mandarin Chinese, some English words in it (asr)
  hours     train L 10,005, in it M 1,000, in that S 100; W, apart from these, 2,478 with weak
            labels; dev 20; test_net 23 (internet); test_meeting 15 (far-field conversations)
  labels    of YouTube by OCR of the subtitles, of podcasts by ASR, then checked by alignment;
            confidence 1.0 in M and S, 0.95 or more in L, 0.6 to 0.95 in W
  license   CC BY 4.0, for non-commercial purposes; the audio stays its owners'
  source    https://github.com/wenet-e2e/WenetSpeech: a form gives the password, then
            utils/download_wenetspeech.sh fetches and unpacks (500 GB); so there is no --fetch
  layout    WenetSpeech.json: {"audios": [{"aid", "duration", "path", "segments": [{"sid",
            "begin_time", "end_time", "text", "confidence", "subsets": ["L", "M"]}]}]}
            audio/{train,dev,test_net,test_meeting}/.../<aid>.opus, long recordings, 16 kHz

Sets made
  train_l (or what --subset says: train_m or train_s, train_w)  dev
  wenetspeech_test_net_asr_zh  wenetspeech_test_meeting_asr_zh

Known faults, and what we do
  S is part of M, and M of L: two of them would show the rows of the smaller one twice, so --subset
  takes one of l, m, s, and w beside it. Another OUT (data/wenetspeech_s) may hold another one.
  The JSON has gigabytes: it is streamed, once for all sets together.
  Chinese characters stand apart in some texts, with ideographic or no-break spaces too: spaces
  between two characters beyond ASCII go, others become one plain space (as the publisher's own
  fix_json.py does). English words are in capitals in some texts and not in others: left as they
  are. There is no punctuation. Recordings that the download lacks cost their segments, which are
  skipped and counted, as are segments without a key that is needed. Speakers are not known.
"""

import argparse
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from corpus import Bad, CorpusSet, chosen, get_parser, need_folder, run
from json_items import stream_items
from one_pass import OnePass

from espnet_part.datadir import Row

SPLITS = ("train", "dev", "test_net", "test_meeting")
NESTED = ("l", "m", "s")  # each holds the next one
SUBSETS = (*NESTED, "w")
# Rows, to which TwinkStart/WenetSpeech on Hugging Face agrees as far as it shows (24.8k, 8.37k).
EXPECTED = {"wenetspeech_test_net_asr_zh": 24774, "wenetspeech_test_meeting_asr_zh": 8370}
WHERE = (
    "Ask for WenetSpeech at https://github.com/wenet-e2e/WenetSpeech (non-commercial), unpack it "
    "with utils/download_wenetspeech.sh, and name the folder that holds WenetSpeech.json in db.sh "
    "(WENETSPEECH=...)"
)
_SPACES = re.compile(r"[\s\u3000\u00a0]+")
_SPACE_WITHIN_CHINESE = re.compile(r"(?<=[^\x00-\x7f]) (?=[^\x00-\x7f])")


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """The wanted sets, which share one pass over the JSON.

    Raises:
        ValueError: The corpus is missing, a split or subset is unknown, or subsets overlap.
    """
    names: dict[str, str] = {}  # subset, as the JSON names it -> set
    for split in chosen(SPLITS, args.splits, "--splits"):
        if split == "train":
            names |= {s.upper(): f"train_{s}" for s in _subsets(args.subset)}
        else:
            names[split.upper()] = split if split == "dev" else f"wenetspeech_{split}_asr_zh"
    table = need_folder(args.corpus, WHERE) / "WenetSpeech.json"
    if not table.is_file():
        raise ValueError(f"{table}: no such file. {WHERE}")
    table_pass = OnePass(lambda: _read(table, names), list(names.values()), args.out)
    return [
        CorpusSet(
            name,
            [table],
            functools.partial(table_pass.rows, name),
            expected=EXPECTED.get(name),
        )
        for name in names.values()
    ]


def _subsets(wanted: list[str]) -> list[str]:
    subsets = chosen(SUBSETS, wanted, "--subset")
    nested = [name for name in subsets if name in NESTED]
    if len(nested) > 1:
        raise ValueError(
            f"--subset: found {' '.join(nested)}, expected one of {' '.join(NESTED)}, with w or "
            f"without: {nested[0]} holds the rows of {' and '.join(nested[1:])}, which would be "
            "trained on twice; make each in an OUT of its own"
        )
    return subsets


def _read(table: Path, names: dict[str, str]) -> Iterator[tuple[str, Row | Bad]]:
    for audio in stream_items(table, "audios.item"):
        for number, segment in enumerate(audio.get("segments") or []):
            wanted = [names[subset] for subset in segment.get("subsets", ()) if subset in names]
            if wanted:
                row = _make_row(table.parent, audio, segment, number)
                for name in wanted:
                    yield name, row


def _make_row(root: Path, audio: dict, segment: dict, number: int) -> Row | Bad:
    where = segment.get("sid") or f"{audio.get('aid')}:{number}"
    try:
        sid, path = segment["sid"], f"{root}/{audio['path']}"
        start, end = float(segment["begin_time"]), float(segment["end_time"])
        text = clean_text(segment["text"])
    except (KeyError, TypeError, ValueError) as err:
        return Bad(where, "segment lacks a value", f"{type(err).__name__} {err} in segment {where}")
    return Row(f"{sid}-asr", "asr", "zh", "zh", text, path, start, end, speaker=sid)


def clean_text(text: str) -> str:
    """Text without spaces between Chinese characters; every other run of spaces becomes one."""
    return _SPACE_WITHIN_CHINESE.sub("", _SPACES.sub(" ", text).strip())


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = get_parser(__doc__, ["zh"], SPLITS, fetchable=False)
    help_text = "training sets: one of l, m, s (l, which holds m, which holds s), or w, or both"
    parser.add_argument("--subset", nargs="+", default=["l"], help=help_text)
    return run(parser, make_sets, argv)


if __name__ == "__main__":
    sys.exit(main())
