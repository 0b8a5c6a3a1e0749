import pytest
import torch

from espnet_part.augment import SpecAugment, utterance_seed

FEATURES = torch.randn(3, 40, 12, generator=torch.Generator().manual_seed(0)) + 5
LENGTHS = torch.tensor([40, 25, 10])
STRONG = SpecAugment(time_masks=2, time_width=0.4, freq_masks=2, freq_width=0.4)


def test_masked_spans_hold_the_mean():
    out = STRONG(FEATURES, LENGTHS, [1, 2, 3])
    for b, length in enumerate(LENGTHS.tolist()):
        mean = FEATURES[b, :length].mean(0)
        touched = (out[b, :length] != FEATURES[b, :length]).float()
        rows, bins = touched.mean(1) == 1, touched.mean(0) == 1
        assert rows.any() or bins.any()
        spans = rows[:, None] | bins[None, :]
        assert torch.equal(touched.bool(), spans), "whole frames and whole bins only"
        wanted = torch.where(spans, mean, FEATURES[b, :length])
        torch.testing.assert_close(out[b, :length], wanted, rtol=1e-4, atol=1e-4)
        assert not rows.all() and not bins.all()


def test_the_input_stays_as_it_is():
    before = FEATURES.clone()
    STRONG(FEATURES, LENGTHS, [1, 2, 3])
    assert torch.equal(FEATURES, before)


def test_a_clip_is_masked_by_its_own_seed_alone():
    whole = STRONG(FEATURES, LENGTHS, [1, 2, 3])
    alone = STRONG(FEATURES[1:2, :25], LENGTHS[1:2], [2])
    torch.testing.assert_close(whole[1, :25], alone[0])
    assert torch.equal(whole, STRONG(FEATURES, LENGTHS, [1, 2, 3]))
    assert not torch.equal(whole[1], STRONG(FEATURES, LENGTHS, [1, 4, 3])[1])
    torch.manual_seed(5)  # nothing comes from the global state
    assert torch.equal(whole, STRONG(FEATURES, LENGTHS, [1, 2, 3]))


@pytest.mark.parametrize(
    ("masks", "time", "frequency"),
    [
        (SpecAugment(0, 0.4, 2, 0.4), False, True),
        (SpecAugment(2, 0.4, 0, 0.4), True, False),
        (SpecAugment(2, 0.0, 2, 0.0), False, False),
        (SpecAugment(0, 0.4, 0, 0.4), False, False),
    ],
)
def test_each_key_counts(masks, time, frequency):
    found = {"time": False, "frequency": False}
    for seed in range(20):
        touched = masks(FEATURES, LENGTHS, [seed] * 3)[0] != FEATURES[0]
        found["time"] |= bool(touched.all(1).any())
        found["frequency"] |= bool(touched.all(0).any())
    assert found == {"time": time, "frequency": frequency}


def test_widths_are_limits():
    widest = {0.1: 0, 0.5: 0}
    for width in widest:
        masks = SpecAugment(1, width, 0, 0.0)
        for seed in range(200):
            touched = (masks(FEATURES, LENGTHS, [seed] * 3) != FEATURES).all(2).sum(1)
            assert (touched <= (LENGTHS * width).long()).all()
            widest[width] = max(widest[width], int(touched[0]))
    assert widest == {0.1: 4, 0.5: 20}


def test_stacked_frames_lose_the_same_bin():
    masks = SpecAugment(0, 0.0, 1, 0.5)
    touched = (masks(FEATURES, LENGTHS, [3, 4, 5], stacked=2) != FEATURES).all(1)
    assert touched.any()
    assert torch.equal(touched[:, :6], touched[:, 6:])


def test_dtype_stays():
    assert STRONG(FEATURES.bfloat16(), LENGTHS, [1, 2, 3]).dtype == torch.bfloat16


def test_short_clips():
    out = STRONG(FEATURES[:, :1], torch.tensor([1, 1, 0]), [1, 2, 3])
    assert torch.isfinite(out).all()


def test_seeds_differ_by_each_of_their_parts():
    seeds = {
        utterance_seed(*key)
        for key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (0, 0, "é"))
    }
    assert len(seeds) == 5
    assert utterance_seed(7, 3, "clip-asr") == utterance_seed(7, 3, "clip-asr")
    many = {utterance_seed(0, step, f"utt{i}") for step in range(50) for i in range(50)}
    assert len(many) == 2500
