"""Cutting at pauses, joining by language, subtitles."""

import numpy as np
import pytest

from espnet_part.segmentation import (
    Piece,
    cut_at_pauses,
    frame_energy,
    join_texts,
    srt_time,
    to_srt,
)

RATE = 16000


def noise(seconds: float, pauses=(), level: float = 0.3, seed: int = 0) -> np.ndarray:
    """Noise with silence in the (start, end) spans of `pauses`."""
    wave = np.random.default_rng(seed).uniform(-level, level, int(seconds * RATE))
    for start, end in pauses:
        wave[int(start * RATE) : int(end * RATE)] *= 1e-4
    return wave.astype(np.float32)


def test_short_audio_is_one_piece():
    assert cut_at_pauses(noise(30.0), RATE, 30.0) == [(0, 30 * RATE)]
    assert cut_at_pauses(noise(0.01), RATE, 30.0) == [(0, 160)]


@pytest.mark.parametrize("seconds", [30.01, 47.3, 60.0, 301.7])
def test_pieces_cover_everything_and_keep_the_limit(seconds):
    wave = noise(seconds)
    pieces = cut_at_pauses(wave, RATE, 30.0)
    assert pieces[0][0] == 0 and pieces[-1][1] == len(wave)
    assert all(a[1] == b[0] for a, b in zip(pieces, pieces[1:], strict=False))
    lengths = [end - start for start, end in pieces]
    assert max(lengths) <= 30 * RATE
    assert min(lengths) >= RATE


def test_cuts_lie_in_the_pauses():
    pauses = [(18.0, 18.5), (40.2, 40.6), (63.0, 63.4)]
    pieces = cut_at_pauses(noise(80.0, pauses), RATE, 30.0)
    cuts = [end / RATE for _, end in pieces[:-1]]
    assert len(cuts) == 3
    for cut, (start, end) in zip(cuts, pauses, strict=True):
        assert start + 0.1 <= cut <= end - 0.1


def test_the_longest_of_equal_silences_is_halved():
    wave = noise(40.0)
    wave[17 * RATE : int(17.3 * RATE)] = 0
    wave[22 * RATE : 24 * RATE] = 0
    assert cut_at_pauses(wave, RATE, 30.0)[0][1] == pytest.approx(23 * RATE, abs=0.02 * RATE)


def test_every_clear_pause_ends_a_piece_where_that_is_asked():
    """Also in noise; not short pauses, scraps, or the silence around it all."""
    pauses = [(0, 0.4), (2.5, 2.9), (5.0, 5.2), (7.0, 7.5), (7.9, 8.4), (19.4, 20.0)]
    for hiss in (0.0, 0.03):
        wave = noise(20.0, pauses) + noise(20.0, level=hiss, seed=1)
        assert len(cut_at_pauses(wave, RATE, 30.0)) == 1
        pieces = cut_at_pauses(wave, RATE, 10.0, 0.3)
        assert pieces[0][0] == 0 and pieces[-1][1] == len(wave)
        assert all(a[1] == b[0] for a, b in zip(pieces, pieces[1:], strict=False))
        cuts = [end / RATE for _, end in pieces[:-1]]
        assert 2.6 <= cuts[0] <= 2.8 and 7.1 <= cuts[1] <= 7.4, "a tenth from speech at least"
        # 7.9 is too near to the cut before it; what is left is longer than the limit.
        assert len(cuts) == 3 and 10 < cuts[2] < 17.25
    for steady in (noise(20.0), np.zeros(20 * RATE, np.float32), noise(0.005)):
        assert cut_at_pauses(steady, RATE, 30.0, 0.3) == [(0, len(steady))]


def test_a_soft_voice_between_pauses_is_not_cut():
    wave = noise(14.0, [(4.0, 4.6), (8.6, 9.2)])
    wave[int(4.6 * RATE) : int(8.6 * RATE)] *= 0.05
    cuts = [end / RATE for _, end in cut_at_pauses(wave, RATE, 30.0, 0.4)[:-1]]
    assert cuts and all(4.0 <= cut <= 4.6 or 8.6 <= cut <= 9.2 for cut in cuts)


def test_digital_silence_all_over():
    pieces = cut_at_pauses(np.zeros(100 * RATE, np.float32), RATE, 30.0)
    assert pieces[-1][1] == 100 * RATE
    assert max(end - start for start, end in pieces) <= 30 * RATE


def test_the_last_piece_is_not_a_scrap():
    pieces = cut_at_pauses(noise(30.05, [(29.98, 30.05)]), RATE, 30.0)
    assert pieces[-1][1] - pieces[-1][0] >= RATE


def test_other_rates_and_bad_input():
    wave = noise(10.0)
    assert max(end - start for start, end in cut_at_pauses(wave, 8000, 8.0)) <= 8 * 8000
    with pytest.raises(ValueError, match="one channel"):
        cut_at_pauses(np.zeros((2, 100)), RATE, 30.0)
    for bad in (1.0, float("nan")):
        with pytest.raises(ValueError, match="max_sec"):
            cut_at_pauses(wave, RATE, bad)


def test_frame_energy():
    wave = np.concatenate([np.full(160, 0.5), np.zeros(160), np.ones(50)]).astype(np.float32)
    assert frame_energy(wave, RATE).tolist() == pytest.approx([0.25, 0.0])


@pytest.mark.parametrize(
    ("language", "texts", "joined"),
    [
        ("de", ["eins zwei ", "", " drei"], "eins zwei drei"),
        ("zh", ["一二", "三"], "一二三"),
        ("ja", ["ひとつ", "ふたつ"], "ひとつふたつ"),
        ("yue", ["一", "二"], "一二"),
        ("ko", ["하나", "둘"], "하나 둘"),
        (None, ["一二", "三"], "一二三"),
        (None, ["ひとつ。", "ふたつ"], "ひとつ。ふたつ"),
        (None, ["one", "two"], "one two"),
        (None, ["하나", "둘"], "하나 둘"),
        ("en", [], ""),
        ("en", ["", " "], ""),
    ],
)
def test_join(language, texts, joined):
    assert join_texts(texts, language) == joined


def test_srt():
    assert srt_time(3661.5) == "01:01:01,500"
    assert srt_time(59.9996) == "00:01:00,000"
    pieces = [Piece(0.0, 1.5, "one"), Piece(1.5, 2.0, " "), Piece(2.0, 3.0, "two")]
    assert to_srt(pieces) == (
        "1\n00:00:00,000 --> 00:00:01,500\none\n\n2\n00:00:02,000 --> 00:00:03,000\ntwo\n"
    )
    assert to_srt([]) == ""
