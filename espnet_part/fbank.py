"""Log-mel features of whole batches: Kaldi's filterbank and low frame rate, Whisper's log-mel.

Every valid frame is that of the clip alone, to the rounding of float32.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

FRAME = 400  # samples, 25 ms
SHIFT = 160  # samples, 10 ms
CACHED_FRAMES = 1000  # 2 MB of float32 at 512 points


@lru_cache(maxsize=32)
def _kaldi_tables(bins: int, window: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Window (400,) and mel filters (257, bins), made once for a device."""
    from torchaudio.compliance.kaldi import get_mel_banks

    # Named devices: the first caller may stand in a `torch.device("meta")` or inference block.
    with torch.inference_mode(False), torch.device("cpu"):
        if window == "hamming":
            taps = torch.hamming_window(FRAME, periodic=False, alpha=0.54, beta=0.46)
        else:
            assert window == "povey", window
            taps = torch.hann_window(FRAME, periodic=False).pow(0.85)
        mel, _ = get_mel_banks(bins, 512, 16000.0, 20.0, 0.0, 100.0, -500.0, 1.0)
        return taps.to(device), F.pad(mel, (0, 1)).T.contiguous().to(device)


def kaldi_fbank(
    speech_BT: Tensor, bins: int = 80, window: str = "hamming", scale: float = 1.0
) -> Tensor:
    """Kaldi's log-mel filterbank without dither, as ``torchaudio.compliance.kaldi.fbank``.

    Args:
        speech_BT: 16 kHz waveforms (B, T), T >= 400.
        bins: Mel bins.
        window: ``hamming`` or ``povey``.
        scale: Factor on the waveform; 32768 for models trained on 16-bit integers.

    Returns:
        Features (B, 1 + (T - 400) // 160, bins). Frame t sees samples 160 t to 160 t + 399.
    """
    taps, mel = _kaldi_tables(bins, window, speech_BT.device)
    frames = speech_BT.unfold(1, FRAME, SHIFT)
    return torch.cat([_log_mel(part, taps, mel, scale) for part in frames.split(_rows(frames))])


def _log_mel(frames: Tensor, taps: Tensor, mel: Tensor, scale: float) -> Tensor:
    """Frames of samples (B, M, 400) to log-mel (B, M, bins)."""
    frames = frames - frames.mean(-1, keepdim=True)
    if scale != 1.0:
        frames = frames * scale
    first = frames[..., :1] * (1.0 - 0.97)
    frames = torch.cat([first, frames[..., 1:] - 0.97 * frames[..., :-1]], -1) * taps
    spectrum = torch.fft.rfft(frames, n=512)
    power = spectrum.real.square() + spectrum.imag.square()
    return (power @ mel).clamp(min=torch.finfo(torch.float32).eps).log()


def stack_frames(features_BTF: Tensor, lengths_B: Tensor, size: int, stride: int) -> Tensor:
    """Low frame rate: every `stride` frames, `size` neighbours side by side.

    Windows are centered; past its ends a clip repeats its own first and last frame.

    Args:
        features_BTF: Features (B, T, F).
        lengths_B: Frames per clip (B,).
        size: Frames per window.
        stride: Frames from one window to the next.

    Returns:
        Windows (B, ceil(T / stride), size * F).
    """
    batch, frames, bins = features_BTF.shape
    device = features_BTF.device
    count = (frames + stride - 1) // stride
    places = torch.arange(count, device=device)[:, None] * stride
    places = places + torch.arange(size, device=device) - (size - 1) // 2
    last = (lengths_B.to(device) - 1).clamp(min=0)
    places = torch.minimum(places.clamp(min=0).expand(batch, -1, -1), last[:, None, None])
    rows = torch.arange(batch, device=device)[:, None, None]
    return features_BTF[rows, places].reshape(batch, count, size * bins)


@lru_cache(maxsize=32)
def _whisper_tables(bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Window (400,) and mel filters (201, bins), made once for a device."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(201, bins, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    with torch.inference_mode(False), torch.device("cpu"):
        mel = torch.from_numpy(filters).float()
        return torch.hann_window(FRAME).to(device), mel.to(device)


def whisper_log_mel(speech_BT: Tensor, bins: int, limit: int) -> Tensor:
    """Whisper's log-mel of the clips' own frames, as if they were padded to `limit` samples.

    Whisper raises every value to 8 below the maximum of the whole padded clip. Silence never is
    that maximum, so frames past a clip's end change nothing as long as *all* frames that touch the
    clip are looked at, also the one or two that stand half behind its end and are dropped here.

    Args:
        speech_BT: 16 kHz waveforms (B, T), silent past each clip's end, 160 <= T <= limit.
        bins: Mel bins.
        limit: Samples of the window that the model was trained on (30 s).

    Returns:
        Features (B, T // 160, bins). Frame t is centered at sample 160 t.
    """
    taps, mel = _whisper_tables(bins, speech_BT.device)
    samples, half = speech_BT.shape[1], FRAME // 2
    frames = min((samples + half - 1) // SHIFT + 1, limit // SHIFT)
    end = (frames - 1) * SHIFT + half
    speech_BT = F.pad(speech_BT, (0, max(min(end, limit), half + 1) - samples))
    left = speech_BT[:, 1 : half + 1].flip(1)
    # Only a clip that fills the window has speech to mirror at its end; else that is silence.
    right = speech_BT[:, 2 * limit - end - 1 : limit - 1].flip(1) if end > limit else None
    parts = [left, speech_BT] if right is None else [left, speech_BT, right]
    padded = torch.cat(parts, 1)
    frames_BMS = padded.unfold(1, FRAME, SHIFT)[:, :frames]
    pieces = frames_BMS.split(_rows(frames_BMS))
    log_mel = torch.cat([_log10_mel(piece, taps, mel) for piece in pieces])
    log_mel = torch.maximum(log_mel, log_mel.amax((1, 2), keepdim=True) - 8.0)
    return (log_mel[:, : samples // SHIFT] + 4.0) / 4.0


def _log10_mel(frames: Tensor, taps: Tensor, mel: Tensor) -> Tensor:
    """Frames of samples (B, M, 400) to log10-mel (B, M, bins)."""
    spectrum = torch.fft.rfft(frames * taps)
    power = spectrum.real.square() + spectrum.imag.square()
    return (power @ mel).clamp(min=1e-10).log10()


def _rows(frames_BMS: Tensor) -> int:
    """Clips at once: on the CPU small pieces stay in its caches, twice as fast as all of them."""
    if frames_BMS.device.type != "cpu":
        return len(frames_BMS)
    return max(1, CACHED_FRAMES // max(frames_BMS.shape[1], 1))


def reflect_clips(speech_BT: Tensor, lengths_B: Tensor, pad: int) -> Tensor:
    """Mirrors every clip at its own two ends, as ``torch.stft`` does with a clip alone.

    Args:
        speech_BT: Waveforms (B, T).
        lengths_B: Samples per clip (B,), above `pad`.
        pad: Samples to add on both sides.

    Returns:
        Waveforms (B, T + 2 * pad); a clip starts at `pad`.
    """
    samples = speech_BT.shape[1]
    places = torch.arange(-pad, samples + pad, device=speech_BT.device).abs()
    last = (lengths_B.to(speech_BT.device) - 1)[:, None]
    places = torch.where(places > last, 2 * last - places, places.expand(len(last), -1))
    return speech_BT.gather(1, places.clamp(0, samples - 1))
