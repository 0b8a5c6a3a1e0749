"""FLEURS' folders and tables: where a language's files are, and what a row of a table says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corpus import Bad
from fetch import Archive, unpack

CODES = {  # ours: theirs
    "zh": "cmn_hans_cn",
    "en": "en_us",
    "ja": "ja_jp",
    "ko": "ko_kr",
    "yue": "yue_hant_hk",
    "de": "de_de",
    "fr": "fr_fr",
    "ru": "ru_ru",
    "es": "es_419",
    "it": "it_it",
    "sv": "sv_se",
    "id": "id_id",
    "ar": "ar_eg",
}
SPLITS = ("train", "dev", "test")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u2028\u2029\u202f\u205f]")
_NO_WIDTH = re.compile("[\u200b-\u200f\u202a-\u202e\u2060\ufeff]")
_FIELDS = 7


@dataclass(frozen=True)
class Clip:
    """One row of a table.

    Attributes:
        sentence: FLEURS' id of the sentence, the same in all languages.
        name: Of the clip, unique over all languages.
        file_name: Of its audio.
        text: What is said, cased and punctuated.
    """

    sentence: str
    name: str
    file_name: str
    text: str


def find_language(root: Path, lang: str) -> Path | None:
    """The folder of a language, None if there is none.

    Google's tar file of the language is unpacked where nothing but that is there.
    """
    code = CODES[lang]
    packed = root / f"{code}.tar.gz"
    folders = [root / "data" / code, root / code]
    if packed.exists() and not any(folder.is_dir() for folder in folders):
        _unpack(packed, code)
    return next((folder for folder in folders if folder.is_dir()), None)


def find_audio(table: Path) -> Path:
    """The folder of a split's audio files, unpacked if it is not yet.

    Raises:
        ValueError: There is none, packed or not.
    """
    folder = table.parent / "audio" / table.stem
    packed = folder.with_name(f"{table.stem}.tar.gz")
    if not folder.is_dir() and packed.exists():
        _unpack(packed, table.stem)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder, nor {packed.name}; expected the audio of {table}"
        )
    return folder


def _unpack(path: Path, gives: str) -> None:
    try:
        unpack(path, path.parent, Archive(path.name, gives))
    except PermissionError as error:
        raise ValueError(
            f"{path} is packed, and {path.parent} cannot be written ({error}): unpack it there, or "
            "copy it to a folder of your own and name that"
        ) from error


def read_table(table: Path, lang: str) -> Iterator[Clip | Bad]:
    """Yields what each row of <split>.tsv says."""
    with table.open("rb") as file:  # in bytes, lines end at \n only: text may hold U+2028
        for number, line in enumerate(file, 1):
            where = f"{lang}-{table.name}:{number}"
            try:
                fields = line.decode("utf-8-sig").rstrip("\r\n").split("\t")
            except UnicodeDecodeError as error:
                yield Bad(where, "not UTF-8", str(error))
                continue
            if len(fields) != _FIELDS:
                found = f"found {len(fields)} fields, expected {_FIELDS}"
                yield Bad(where, "wrong number of fields", found)
            elif not re.fullmatch(r"[\w.-]+\.wav", fields[1]):
                yield Bad(where, "wrong file name", f"found {fields[1]!r}, expected <number>.wav")
            else:
                name = f"{lang}-{fields[1].removesuffix('.wav')}"
                yield Clip(fields[0], name, fields[1], clean_text(fields[2]))


def clean_text(text: str) -> str:
    """Text with plain single spaces, and without what has no width."""
    return re.sub(" +", " ", _NO_WIDTH.sub("", _SPACES.sub(" ", text))).strip()
