"""The true length of an MP3 file, from its frame headers.

soundfile takes the length of an MP3 from its Info (Xing) header. Where that is missing, as in files
written to a pipe, it estimates the length from the size of the file and the first frame's bit rate:
off by any tags, and far too short (the rest is lost silently) where the bit rate varies.
Walking the frame headers costs about 1 ms per 15 s of audio and decodes nothing.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

_KBIT_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBIT_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = (44100, 48000, 32000)
_MPEG1, _MPEG2, _MPEG25 = 3, 2, 0
_LAYER3 = 1


@dataclass(frozen=True)
class Mp3Length:
    """What the frames of an MP3 tell.

    Attributes:
        samples: Samples per channel by counting frames; None where an Info header gives the length.
        missing_bytes: How much of the stream that the Info header declares is not there.
    """

    samples: int | None
    missing_bytes: int


def mp3_length(name: str) -> Mp3Length | None:
    """Reads the length of an MP3; None where it is not a plain Layer III stream."""
    with open(name, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = _skip_id3(data)
        first = _frame(data, at)
        if first is None:
            return None
        size, per_frame, side_info = first
        tag = at + 4 + side_info
        if data[tag : tag + 4] in (b"Xing", b"Info"):
            has_bytes = data[tag + 7] & 2
            field = tag + 8 + 4 * (data[tag + 7] & 1)  # the number of frames comes before it
            declared = int.from_bytes(data[field : field + 4], "big") if has_bytes else 0
            return Mp3Length(None, max(0, declared - (len(data) - at)))
        if data[at + 36 : at + 40] == b"VBRI":
            return Mp3Length(None, 0)
        frames = 0
        while (frame := _frame(data, at)) is not None and at + frame[0] <= len(data):
            frames += 1
            at += frame[0]
        # Tags at the end are fine; stopped far from it, the stream is not what it seems.
        return Mp3Length(frames * per_frame, 0) if len(data) - at < (1 << 16) else None


def _skip_id3(data: mmap.mmap) -> int:
    if data[:3] != b"ID3":
        return 0
    size = 0
    for byte in data[6:10]:  # seven bits each
        size = size << 7 | byte & 127
    return 10 + size


def _frame(data: mmap.mmap, at: int) -> tuple[int, int, int] | None:
    """Size in bytes, samples per channel, and size of the side information of the frame at `at`."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    kbit_index, rate_index = head[2] >> 4, head[2] >> 2 & 3
    if layer != _LAYER3 or version == 1 or kbit_index in (0, 15) or rate_index == 3:
        return None
    mono = head[3] >> 6 == 3
    rate = _RATES[rate_index] // {_MPEG1: 1, _MPEG2: 2, _MPEG25: 4}[version]
    per_frame = 1152 if version == _MPEG1 else 576
    kbit = (_KBIT_MPEG1 if version == _MPEG1 else _KBIT_MPEG2)[kbit_index]
    side_info = (17 if mono else 32) if version == _MPEG1 else (9 if mono else 17)
    padding = head[2] >> 1 & 1
    return per_frame // 8 * kbit * 1000 // rate + padding, per_frame, side_info
