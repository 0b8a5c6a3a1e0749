"""Real text and speech, where a machine has it: no part of the repository, and no test needs it.

The environment variable ESPNET_PART_TEST_DATA names the folder, `../shared/data` beside the
repository if unset. In it: `fleurs_clips`, `ntrex128`, `flores200_devtest`, `tatoeba`.
"""

import os
from pathlib import Path

import pytest
from prepare_flores200 import CODES  # local/, on the path by conftest.py
from prepare_ntrex128 import FILES
from prepare_tatoeba import CODES as TATOEBA_CODES

VARIABLE = "ESPNET_PART_TEST_DATA"
_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
DATA = Path(os.environ.get(VARIABLE) or _BESIDE).resolve()


def needs(*folders: str) -> pytest.MarkDecorator:
    """Skip a test where one of the folders is missing, and say which and how to name it."""
    missing = [name for name in folders if not (DATA / name).is_dir()]
    return pytest.mark.skipif(
        bool(missing), reason=f"no {' and no '.join(missing)} in {DATA} (set {VARIABLE})"
    )


def read_lines(name: str) -> list[str]:
    """Lines of a file, as published: cut at line feeds only."""
    return (DATA / name).read_text("utf-8").removesuffix("\n").split("\n")


def ntrex(lang: str) -> list[str]:
    """The 1,997 sentences of NTREX-128 in a language."""
    return read_lines(f"ntrex128/{Path(FILES[lang]).name}")


def flores(lang: str) -> list[str]:
    """The 1,012 sentences of FLORES-200's devtest in a language."""
    return read_lines(f"flores200_devtest/{CODES[lang]}.devtest")


def tatoeba(lang: str) -> list[str]:
    """The 1,000 sentences of Tatoeba in a language; in English, those beside the German ones."""
    code = TATOEBA_CODES["de" if lang == "en" else lang]
    return read_lines(f"tatoeba/tatoeba.{code}-eng.{'eng' if lang == 'en' else code}")
