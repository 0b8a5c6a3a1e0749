"""eSpeak NG in this process: a sentence, a voice, a waveform, in some 3 ms.

The engine comes with the Python package `espeakng-loader` (no root needed, and the same version,
so the same voices, everywhere); where that has no wheel, the system's libespeak-ng is used. eSpeak
NG is under GPL-3.0 and is loaded at run time by this script only, never by `espnet_part`.

What a voice says depends a little on what the process said before (its flutter goes on): the same
calls in a new process give the same samples.
"""

import atexit
import ctypes
import ctypes.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_part.audio import SAMPLE_RATE, resample

VOICES = {  # `cmn` reads Chinese characters as English; Japanese must be written in kana
    "zh": "cmn-latn-pinyin",
    "en": "en-us",
    "ja": "ja",
    "ko": "ko",
    "yue": "yue",
    "de": "de",
    "fr": "fr",
    "ru": "ru",
    "es": "es",
    "it": "it",
}
_SYNCHRONOUS, _UTF8, _CHARACTERS = 2, 1, 1
_RATE, _PITCH = 1, 3
_LONGEST_PATH = 150
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Manner:
    """How a sentence is spoken.

    Attributes:
        variant: Variant of the language's voice, e.g. "m3"; "" is the voice itself.
        words_per_minute: Speed.
        pitch: 0 to 99; 50 is the variant's own.
    """

    variant: str = ""
    words_per_minute: int = 170
    pitch: int = 50


class Espeak:
    """The engine; one per process, since it has but one state.

    Attributes:
        version: Of eSpeak NG; other versions speak a little differently.

    Raises:
        ValueError: There is no eSpeak NG.
    """

    def __init__(self):
        self._library, data = _load()
        # Not in eSpeak NG before 1.52, where breathy voices are another noise each time.
        self._seed = getattr(self._library, "espeak_ng_SetRandSeed", lambda _: 0)
        self._rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if self._rate_hz <= 0:
            raise ValueError(f"eSpeak NG does not start: no voices in {(data or b'').decode()!r}")
        self._library.espeak_Info.restype = ctypes.c_char_p
        data = ctypes.c_char_p()
        self.version = self._library.espeak_Info(ctypes.byref(data)).decode().split()[0]
        # eSpeak passes over a variant that it does not know, and takes the voice itself.
        variants = Path(os.fsdecode(data.value or b""), "voices", "!v")
        self._variants = {"", *(path.name for path in variants.iterdir())}
        self._pieces: list[np.ndarray] = []
        self._callback = _Callback(self._keep)  # must outlive the calls
        self._library.espeak_SetSynthCallback(self._callback)

    def _keep(self, samples, n: int, _events) -> int:
        if samples and n > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0

    def say(self, text: str, language: str, manner: Manner) -> np.ndarray:
        """Speak a sentence.

        Args:
            text: in the language's script (Japanese: kana).
            language: a key of `VOICES`.
            manner: voice, speed and pitch.

        Returns:
            float32 (T_samples,) at 16 kHz, within -1 to 1.

        Raises:
            ValueError: No such language or variant, or nothing is said.
        """
        if language not in VOICES:
            raise ValueError(f"No voice for language {language!r}; there are: {', '.join(VOICES)}")
        voice = VOICES[language] + (f"+{manner.variant}" if manner.variant else "")
        known = manner.variant in self._variants
        if not known or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"eSpeak NG {self.version} has no voice {voice!r}")
        self._library.espeak_SetParameter(_RATE, manner.words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, manner.pitch, 0)
        self._seed(1)  # breathy voices draw noise, else seeded by the clock
        self._pieces.clear()
        line = text.encode() + b"\0"
        self._library.espeak_Synth(line, len(line), 0, _CHARACTERS, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        if not self._pieces:
            raise ValueError(f"eSpeak NG says nothing to {text!r} in {voice}")
        wave = np.concatenate(self._pieces).astype(np.float32) / 32768.0
        return resample(wave, self._rate_hz, SAMPLE_RATE).clip(-1, 1)


def _load() -> tuple[ctypes.CDLL, bytes | None]:
    """The library and where its voices are (None: its own place)."""
    try:
        import espeakng_loader

        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except (ImportError, OSError):
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            raise ValueError(
                "eSpeak NG, which speaks the miniature's sentences, is not here; "
                "type: pip install espeakng-loader (or: sudo apt-get install libespeak-ng1)"
            ) from None
        return ctypes.CDLL(name), None
    data = espeakng_loader.get_data_path()
    if len(os.fsencode(data)) >= _LONGEST_PATH:  # eSpeak would write beyond its buffer
        short = tempfile.mkdtemp(prefix="espeak")
        atexit.register(shutil.rmtree, short, ignore_errors=True)
        os.symlink(data, Path(short, "data"))
        data = str(Path(short, "data"))
    return library, os.fsencode(data)
