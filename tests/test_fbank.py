import numpy as np
import pytest
import torch
import torchaudio
from transformers import FunAsrNanoFeatureExtractor, WhisperFeatureExtractor

from espnet_part.fbank import kaldi_fbank, reflect_clips, stack_frames, whisper_log_mel


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("window, scale", [("hamming", 1.0), ("povey", 32768.0)])
@pytest.mark.parametrize("samples", [400, 559, 560, 16000])
def test_kaldi_fbank_is_torchaudio(window, scale, samples):
    speech = noise(3, samples)
    speech[1] += 0.3  # a constant offset must go
    found = kaldi_fbank(speech, 80, window, scale)
    for row, clip in zip(found, speech, strict=True):
        expected = torchaudio.compliance.kaldi.fbank(
            clip[None] * scale, num_mel_bins=80, window_type=window
        )
        torch.testing.assert_close(row, expected, atol=2e-3, rtol=0)
        assert (row - expected).abs().mean() < 1e-5


def test_kaldi_fbank_of_digital_silence_is_the_floor():
    found = kaldi_fbank(torch.zeros(1, 1000))
    assert torch.allclose(found, torch.tensor(np.log(np.finfo(np.float32).eps)))


def test_stack_frames_is_funasr_lfr_row_by_row():
    extractor = FunAsrNanoFeatureExtractor()
    for lengths in ([1, 2, 3, 4], [5, 6, 7, 8], [60, 61, 29, 12]):
        features = noise(4, max(lengths), 80)
        found = stack_frames(features, torch.tensor(lengths), 7, 6)
        for row, clip, length in zip(found, features, lengths, strict=True):
            expected = extractor._apply_lfr(clip[:length])
            assert torch.equal(row[: len(expected)], expected)


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("samples", [401, 16000, 479700, 479990, 480000])
def test_whisper_log_mel_is_the_padded_one_cut_to_the_clip(bins, samples):
    clip = noise(samples) * torch.linspace(0, 1, samples)
    clip[-30:] *= 50  # the loudest frame is half behind the end: it is dropped but clamps the rest
    found = whisper_log_mel(clip[None], bins, 480000)[0]
    expected = WhisperFeatureExtractor(feature_size=bins)(
        clip.numpy(), sampling_rate=16000, return_tensors="pt"
    ).input_features[0]
    assert len(found) == samples // 160
    torch.testing.assert_close(found, expected[:, : len(found)].T, atol=1e-4, rtol=0)


def test_whisper_log_mel_of_a_loud_neighbour_changes_nothing():
    quiet = torch.zeros(16000)
    quiet[:4000] = 1e-3 * noise(4000)
    alone = whisper_log_mel(quiet[None, :4000], 80, 480000)[0]
    beside = whisper_log_mel(torch.stack([quiet, noise(16000)]), 80, 480000)[0]
    torch.testing.assert_close(beside[: len(alone)], alone, atol=1e-6, rtol=0)


def test_reflect_clips_mirrors_each_clip_at_its_own_end():
    speech = torch.tensor([[1.0, 2, 3, 4, 5], [6, 7, 8, 0, 0]])
    found = reflect_clips(speech, torch.tensor([5, 3]), 2)
    assert found[0].tolist() == [3, 2, 1, 2, 3, 4, 5, 4, 3]
    assert found[1, :7].tolist() == [8, 7, 6, 7, 8, 7, 6]


def test_tables_made_inside_a_meta_or_inference_block_serve_outside():
    with torch.device("meta"), torch.inference_mode():
        speech = torch.zeros(1, 1000, device="cpu")
        kaldi_fbank(speech, 40)
        whisper_log_mel(speech, 40, 480000)
    assert not kaldi_fbank(torch.zeros(1, 1000), 40).is_inference()
    weight = torch.ones(40, requires_grad=True)
    (whisper_log_mel(torch.zeros(1, 1000), 40, 480000) * weight).sum().backward()
    assert weight.grad is not None
