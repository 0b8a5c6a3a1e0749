"""Units of the tiny encoders' CTC: word pieces of at most two characters.

At 16.67 frames a second plain characters do not fit into quickly spoken English (CTC needs a frame
for each, and one more between doubled ones), and whole words leave the frames between them without
anything to learn. Characters that are syllables or words (Chinese, kana, Hangul) are units by
themselves.
"""

import re

WORD_MARK = "▁"
_WIDE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # kana, Han, Hangul
_UNIT = re.compile(f"[{_WIDE}]|[^{_WIDE}]{{1,2}}")


def pieces(text: str) -> list[str]:
    """Cut words into units of two characters, the first of a word marked: ▁th re e ▁ze ro."""
    units = []
    for word in text.lower().split():
        cut = _UNIT.findall(word)
        units += [WORD_MARK + cut[0], *cut[1:]]
    return units


def join_pieces(units: list[str]) -> str:
    """Undo `pieces`."""
    return "".join(units).replace(WORD_MARK, " ").strip()
