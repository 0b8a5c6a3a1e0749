"""Text normalization before WER and CER: OpenAI's Whisper normalizer, unchanged.

`import whisper` pulls in torch and numba (2 s); its normalizers need neither, so only that
sub-package is loaded, from the installed `openai-whisper`, on first use (0.06 s).
"""

import importlib.util
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

CER_LANGUAGES = ("zh", "ja", "ko", "yue")
_MODULE = "espnet_part._whisper_normalizers"


def _load_normalizers() -> ModuleType:
    """Load `whisper.normalizers` without running `whisper/__init__.py`."""
    if _MODULE in sys.modules:
        return sys.modules[_MODULE]
    spec = importlib.util.find_spec("whisper")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "normalizers"
        if (folder / "__init__.py").is_file():
            break
    else:
        raise ValueError(
            "The package openai-whisper is not installed, and scoring speech recognition needs "
            "its text normalizer: pip install openai-whisper"
        )
    loaded = importlib.util.spec_from_file_location(
        _MODULE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert loaded is not None and loaded.loader is not None  # the file exists
    module = importlib.util.module_from_spec(loaded)
    sys.modules[_MODULE] = module
    try:
        loaded.loader.exec_module(module)
    except BaseException:
        del sys.modules[_MODULE]
        raise
    return module


@lru_cache(maxsize=2)
def _normalizer(english: bool) -> Callable[[str], str]:
    module = _load_normalizers()
    return module.EnglishTextNormalizer() if english else module.BasicTextNormalizer()


def normalize(text: str, lang: str, basic: bool = False) -> str:
    """Normalize a sentence for WER or CER.

    Args:
        text: the raw sentence.
        lang: its language code; `en` takes Whisper's English rules, all else its basic ones.
        basic: take the basic rules for English too. The English ones write numbers in digits and
            join them: "three five eight" becomes the one word "358".

    Returns:
        The normalized sentence without outer spaces; without any white space for the languages
        scored by characters (spacing is free in Korean and absent in the other three).

    Raises:
        ValueError: if openai-whisper is not installed.
    """
    text = " ".join(_normalizer(lang == "en" and not basic)(text).split())
    return "".join(text.split()) if lang in CER_LANGUAGES else text


def signature(lang: str, basic: bool = False) -> str:
    """Return what a number's signature says about the normalizer."""
    try:
        release = version("openai-whisper")
    except PackageNotFoundError:
        release = "unknown"
    kind = "english" if lang == "en" and not basic else "basic"
    spaces = "|spaces:removed" if lang in CER_LANGUAGES else ""
    return f"norm:whisper-{kind}{spaces}|openai-whisper:{release}"
