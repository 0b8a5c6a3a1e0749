"""What the tests of decoding share: a model that is no model, and clips."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000
TEMPLATES = yaml.safe_load((ROOT / "conf/prompts.yaml").read_text(encoding="utf-8"))
END = 0


def tone(seconds: float, hz: float = 300.0, rate: int = RATE) -> np.ndarray:
    """A tone with a syllable-like envelope."""
    time = np.arange(int(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * hz * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
    return wave.astype(np.float32)


@dataclass
class FakeHypothesis:
    token_ids: list[int]
    score: float


class FakePrompter:
    """Token ids are characters; the prompt is what it was asked for."""

    templates = TEMPLATES
    end_token_ids = [END]

    def prompt(self, task, src, tgt, source_text=None, lid="right"):
        return SimpleNamespace(task=task, src=src, tgt=tgt, source_text=source_text, lid=lid)

    def encode(self, text):
        return [ord(char) for char in text]

    def decode(self, ids):
        return " ".join("".join(map(chr, ids)).split())


class FakeModel:
    """Answers each clip with its length in tenths of a second and its prompt; keeps the calls."""

    def __init__(self, max_sec=None, endless=False):
        self.prompter = FakePrompter()
        self.tokenizer = SimpleNamespace(convert_ids_to_tokens=lambda ids: [chr(i) for i in ids])
        self.encoder = SimpleNamespace(min_samples=400, max_sec=max_sec)
        self.endless = endless
        self.calls = []

    def eval(self):
        return self

    def generate(self, speech, prompts, max_new_tokens, num_beams=1):
        self.calls.append(SimpleNamespace(speech=speech, limits=max_new_tokens, beams=num_beams))
        found = []
        for wave, prompt, limit in zip(speech, prompts, max_new_tokens, strict=True):
            heard = prompt.source_text if wave is None else str(round(len(wave) / RATE * 10))
            text = f"{heard} {prompt.task} {prompt.src} {prompt.tgt} {prompt.lid}"
            ids = [ord(char) for char in text]
            ids = ids * limit if self.endless else [*ids, END, 88]
            found.append(FakeHypothesis(ids[:limit], -1.0))
        return found


def listening(model):
    """Makes the random LLM of a tiny model notice what the random adapter tells it."""
    with torch.no_grad():
        for parameter in model.adapter.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
    return model.eval()
