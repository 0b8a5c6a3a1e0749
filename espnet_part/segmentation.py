"""Cuts audio of any length into pieces at its pauses, and joins what was decoded from them.

Pure functions of numpy arrays and strings: no model, no files.
Shapes: T = samples, N = 10 ms frames.
"""

from dataclasses import dataclass

import numpy as np

# A pause between words is seldom shorter; within words, closures last under 0.1 s.
PAUSE_SEC = 0.2
FRAME_SEC = 0.01
# A piece shorter than this holds too little for the model to go by.
MIN_PIECE_SEC = 1.0
# Between noise and speech, if there is to be a pause; and how quiet is quiet in any recording.
LEAST_RANGE_DB = 10.0
MOST_DROP_DB = 30.0
# Languages written without spaces between words. (Korean puts spaces.)
UNSPACED_LANGUAGES = frozenset({"zh", "ja", "yue"})


@dataclass(frozen=True)
class Piece:
    """A stretch of audio with the text heard in it.

    Attributes:
        start_sec: Where it begins in the file, in seconds.
        end_sec: Where it ends.
        text: What was decoded.
    """

    start_sec: float
    end_sec: float
    text: str


def frame_energy(waveform_T: np.ndarray, sample_rate: int) -> np.ndarray:
    """Gives the mean square of every 10 ms.

    Args:
        waveform_T: Mono samples.
        sample_rate: In Hz.

    Returns:
        Energies (N,), float64; the incomplete frame at the end is left out.
    """
    hop = int(round(FRAME_SEC * sample_rate))
    n_frames = len(waveform_T) // hop
    # einsum squares and sums in one go: an hour of audio needs no copy in float64.
    frames_NH = waveform_T[: n_frames * hop].reshape(n_frames, hop)
    return np.einsum("nh,nh->n", frames_NH, frames_NH, dtype=np.float64) / hop


def quietest_frame(energy_N: np.ndarray, first: int, last: int) -> int:
    """Finds the middle of the quietest stretch of `PAUSE_SEC` within [first, last].

    Of equally quiet places the one in the middle of the longest such run is taken, so that a long
    digital silence is halved and neither neighbor loses its edge.

    Args:
        energy_N: Energy per frame.
        first: First frame at which a cut is allowed.
        last: Last frame at which a cut is allowed (inclusive).

    Returns:
        The frame before which to cut.
    """
    width = max(1, int(round(PAUSE_SEC / FRAME_SEC)))
    half = width // 2
    # Mean energy of the `width` frames around each candidate, edges included once.
    low, high = max(0, first - half), min(len(energy_N), last - half + width)
    window = energy_N[low:high]
    if len(window) < width:
        return (first + last) // 2
    total = np.concatenate(([0.0], np.cumsum(window)))
    smooth = total[width:] - total[:-width]
    # cumsum leaves rounding noise of this order; below it places count as equally quiet.
    quiet = smooth <= smooth.min() + 1e-9 * max(total[-1], 1e-12)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], quiet.view(np.int8), [0]))))
    starts, ends = edges[0::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    middle = (int(starts[longest]) + int(ends[longest]) - 1) // 2
    return int(np.clip(low + middle + half, first, last))


def clear_pauses(energy_N: np.ndarray, pause_sec: float) -> list[int]:
    """Finds the quietest places of all pauses between speech that last `pause_sec` or longer.

    Quiet is what lies below the middle, in dB, between the noise (5th percentile) and the speech
    (95th); where the two are hardly apart there is no telling, and no pause. A cut is put where it
    is quietest there: what counts as quiet may hold a soft voice.

    Args:
        energy_N: Energy per frame.
        pause_sec: Shortest pause.

    Returns:
        Frames before which to cut, in order.
    """
    level_N = 10.0 * np.log10(np.maximum(energy_N, 1e-10))
    floor, speech = np.percentile(level_N, (5, 95)) if len(level_N) else (0.0, 0.0)
    if speech - floor < LEAST_RANGE_DB:
        return []
    quiet = level_N < max((floor + speech) / 2, speech - MOST_DROP_DB)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], quiet.view(np.int8), [0]))))
    runs = zip(edges[0::2].tolist(), edges[1::2].tolist(), strict=True)
    shortest = pause_sec / FRAME_SEC
    return [
        quietest_frame(energy_N, start, end)
        for start, end in runs
        if start > 0 and end < len(quiet) and end - start >= shortest
    ]


def cut_at_pauses(
    waveform_T: np.ndarray, sample_rate: int, max_sec: float, pause_sec: float = 0.0
) -> list[tuple[int, int]]:
    """Cuts a waveform into pieces of at most `max_sec`, each cut in the quietest place in reach.

    The pieces cover the whole waveform without gap or overlap. A waveform within the limit is one
    piece, unless `pause_sec` says which pauses end a piece in any case. Beyond that a cut is looked
    for in the second half of what a piece may hold, so that pieces are neither tiny nor, when no
    pause is there, longer than the limit.

    Args:
        waveform_T: Mono samples.
        sample_rate: In Hz.
        max_sec: Longest piece in seconds.
        pause_sec: Pauses of this length or longer end a piece, unless it would be shorter than
            `MIN_PIECE_SEC`; 0 cuts only where a piece gets too long.

    Returns:
        (start, end) in samples, in order.

    Raises:
        ValueError: If the waveform is not one-dimensional, or `max_sec` is below 2 s.
    """
    if waveform_T.ndim != 1:
        raise ValueError(
            f"found a waveform of shape {waveform_T.shape}, expected one channel (T,): "
            "mix the channels down first"
        )
    if not max_sec >= 2 * MIN_PIECE_SEC:
        raise ValueError(
            f"the longest piece is {max_sec} s, expected at least {2 * MIN_PIECE_SEC} s: "
            "raise max_sec"
        )
    limit = int(max_sec * sample_rate)
    total = len(waveform_T)
    if total <= limit and not pause_sec:
        return [(0, total)]
    hop = int(round(FRAME_SEC * sample_rate))
    shortest = int(MIN_PIECE_SEC * sample_rate)
    energy_N = frame_energy(waveform_T, sample_rate)
    pieces = []
    start = 0
    wanted = [frame * hop for frame in clear_pauses(energy_N, pause_sec)] if pause_sec else []
    for stop in [*wanted, total]:
        if stop < total and (stop - start < shortest or total - stop < shortest):
            continue
        while stop - start > limit:
            # The last cut leaves at least the shortest piece behind it.
            first = -(-(start + limit // 2) // hop)
            last = min(start + limit, stop - shortest) // hop
            end = quietest_frame(energy_N, first, last) * hop
            pieces.append((start, end))
            start = end
        pieces.append((start, stop))
        start = stop
    return pieces


def _is_unspaced(char: str) -> bool:
    """True for Chinese characters, kana and their punctuation, which take no space around them."""
    code = ord(char)
    return 0x3000 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xFF00 <= code <= 0xFFEF


def join_texts(texts: list[str], language: str | None = None) -> str:
    """Joins the texts of neighboring pieces by the convention of their language.

    Args:
        texts: In order; empty ones leave no trace.
        language: Code of the language of the texts; without it the characters at the seam tell.

    Returns:
        One text.
    """
    joined = ""
    for text in texts:
        text = text.strip()
        if not text:
            continue
        if not joined:
            joined = text
            continue
        if language is None:
            unspaced = _is_unspaced(joined[-1]) and _is_unspaced(text[0])
        else:
            unspaced = language in UNSPACED_LANGUAGES
        joined += text if unspaced else " " + text
    return joined


def srt_time(seconds: float) -> str:
    """Writes a time as SubRip does, ``HH:MM:SS,mmm``."""
    milliseconds = int(round(seconds * 1000))
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d},{rest % 1000:03d}"


def to_srt(pieces: list[Piece]) -> str:
    """Renders pieces as SubRip subtitles; a piece without text is left out.

    Args:
        pieces: In order of time.

    Returns:
        The file's content, ending in a newline; empty when nothing was heard.
    """
    blocks: list[str] = []
    for piece in pieces:
        if piece.text.strip():
            span = f"{srt_time(piece.start_sec)} --> {srt_time(piece.end_sec)}"
            blocks.append(f"{len(blocks) + 1}\n{span}\n{piece.text.strip()}\n")
    return "\n".join(blocks)
