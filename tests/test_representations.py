"""Pooled states: each place is what the model computes there, whatever the encoder."""

import numpy as np
import pytest
import torch

from espnet_part.representations import EncoderStates, clip_vectors, place_names, pool

ENCODERS = ["sensevoice", "whisper", "transformers", "espnet"]


def one(model, wave) -> dict[str, np.ndarray]:
    return {place: vectors[0] for place, vectors in clip_vectors(model, [wave]).items()}


def count_hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def clip(samples: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_places_are_what_the_model_computes(make_model, encoder):
    model = make_model(encoder=encoder).eval()
    wave = clip(12345)
    found = one(model, wave)
    assert list(found) == place_names(model)
    assert list(found) == [f"encoder.{i}" for i in range(11)] + ["adapter", "llm.1", "llm.2"]
    speech, lengths = torch.from_numpy(wave)[None], torch.tensor([len(wave)])
    with torch.no_grad():
        frames, counts = model.encoder(speech, lengths)
        embeddings, _ = model.speech_frames(speech, lengths)
    assert found["adapter"] == pytest.approx(embeddings[0].mean(0).numpy(), abs=1e-5)
    # Behind the last block there may be a final norm; without one it is the encoder's output.
    last = torch.from_numpy(found[f"encoder.{len(model.encoder.layers)}"])
    if not model.encoder.tail:
        assert last.numpy() == pytest.approx(frames[0].mean(0).numpy(), abs=1e-5)
    assert last.shape == frames.shape[2:]
    assert all(np.isfinite(vector).all() and np.ptp(vector) > 0 for vector in found.values())
    # No two places are the same one.
    encoder_places = [found[f"encoder.{i}"] for i in range(1, 11)]
    assert all(
        not np.allclose(a, b) for a, b in zip(encoder_places, encoder_places[1:], strict=False)
    )


def test_llm_states_are_those_at_the_speech(make_model):
    """Against transformers' own hidden states of the whole prompt, instruction and answer."""
    model = make_model().eval()
    wave = clip(16000)
    found = one(model, wave)
    prompt = model.prompter.prompt("asr", "de", "de")
    with torch.no_grad():
        speech, _ = model.speech_frames(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
        embed = model.llm.get_input_embeddings()
        before, after = (embed(torch.tensor(ids)) for ids in (prompt.before, prompt.after))
        whole = torch.cat([before, speech[0], after])[None]
        states = model.llm(inputs_embeds=whole, output_hidden_states=True).hidden_states
    place = slice(len(before), len(before) + speech.shape[1])
    assert found["llm.1"] == pytest.approx(states[1][0, place].mean(0).numpy(), rel=1e-3, abs=1e-4)


def test_query_frames_are_not_of_the_speech(make_model):
    from espnet_part.encoder_sensevoice import Frontend

    model = make_model().eval()
    wave = clip(16000)
    frames = model.encoder(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0][0]
    size = model.encoder.model.config.num_stacked_frames * 80
    model.encoder.frontend = Frontend(query_QF=100 * torch.randn(4, size))
    model.encoder.queries = 4
    again = model.encoder(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0][0]
    assert again.shape == frames.shape
    found = one(model, wave)["encoder.10"]
    assert found == pytest.approx(again.detach().mean(0).numpy(), abs=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_batches_change_nothing(make_model, encoder):
    model = make_model(encoder=encoder).eval()
    waves = [clip(8000, 1), clip(16000, 2), clip(9001, 3)]
    hooks = count_hooks(model)
    found = pool(model, waves, batch_sec=2.5)  # two clips, then one
    assert {len(vectors) for vectors in found.values()} == {3}
    for i, wave in enumerate(waves):
        alone = one(model, wave)
        for place in found:
            spread = float(np.ptp(alone[place]))
            assert found[place][i] == pytest.approx(alone[place], abs=1e-4 * spread), place
    assert count_hooks(model) == hooks


def test_clips_go_alone_where_blocks_shorten_time(make_model, monkeypatch):
    keep = EncoderStates._keep

    def halved(self, layer, value):
        keep(self, layer, value)
        if layer == 3:
            self.states[layer] = self.states[layer][:, ::2]

    monkeypatch.setattr(EncoderStates, "_keep", halved)
    model = make_model().eval()
    waves = [clip(8000, 1), clip(16000, 2)]
    found = pool(model, waves)
    for i, wave in enumerate(waves):
        alone = one(model, wave)
        assert all(np.array_equal(found[place][i], alone[place]) for place in found)
