"""PARTModel: encoder, adapter and LLM in one; forward for training, generate for decoding.

Shapes: A clips, T samples or frames, N text tokens, M packed positions, K target tokens, B rows.
"""

from __future__ import annotations

import numpy as np
import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor, nn

from espnet_part.activation import Gate, gate_modules, ungate_modules
from espnet_part.attention import packed_inputs
from espnet_part.augment import SpecAugment
from espnet_part.generation import Hypothesis, generate, prompt_embeddings
from espnet_part.hidden_states import HiddenStates
from espnet_part.inner_alignment import InnerAlignment, text_pass
from espnet_part.loss import target_loss
from espnet_part.model_state import load_model_state, model_state, weights_id
from espnet_part.prompt import TASKS, Prompter, RenderedPrompt
from espnet_part.splice import flatten, packed_layout, splice
from espnet_part.trainable import apply_policy, match_statistics, select_names, set_modes


class PARTModel(AbsESPnetModel):
    """Speech encoder -> adapter -> LLM (the paper's section 2.2).

    Args:
        encoder: A `SpeechEncoder`.
        adapter: Maps its frames into the LLM's embedding space.
        llm: A causal LM with packed attention (`build_llm`).
        prompter: Renders prompts for this LLM's tokenizer; None where only ids are fed.
        sources: Part -> where its weights come from, None for random ones.
        lora: The LLM's ``{r, alpha, ...}`` if LoRA tensors were injected.
        adapter_config: What a checkpoint of another adapter is told apart by.

    Attributes:
        spec_augment: Masks of training; None without.
        alignment: Inner alignment of speech with its transcript; None without.
        task_weights: Factor on each task's loss.
    """

    def __init__(
        self,
        encoder: nn.Module,
        adapter: nn.Module,
        llm: nn.Module,
        prompter: Prompter | None,
        sources: dict[str, str | None],
        lora: dict | None = None,
        adapter_config: dict | None = None,
    ):
        super().__init__()
        self.encoder, self.adapter, self.llm = encoder, adapter, llm
        self.prompter = prompter
        self.sources = sources
        self.lora = lora
        self.spec_augment: SpecAugment | None = None
        self.alignment: InnerAlignment | None = None
        self.task_weights = {task: 1.0 for task in TASKS}
        self.trained_ever: set[str] = set()
        self.own_dtypes = {name: p.dtype for name, p in self.named_parameters()}
        # Random weights exist nowhere else: a checkpoint holds such parts whole.
        self.unsourced = [part for part in ("encoder", "adapter", "llm") if not sources.get(part)]
        self._gates = {"embeddings": Gate(), "body": Gate(), "head": Gate()}
        self._gated: list[nn.Module] = []
        self._fingerprint = {
            "encoder": {**encoder.fingerprint(), "weights": self._weights("encoder")},
            "adapter": dict(adapter_config or {}),
            "llm": {
                "type": llm.config.model_type,
                "hidden_size": llm.config.hidden_size,
                "layers": llm.config.num_hidden_layers,
                "vocabulary": llm.config.vocab_size,
                "weights": self._weights("llm"),
            },
        }

    @property
    def tokenizer(self):
        """The LLM's tokenizer."""
        return self.prompter.tokenizer

    @property
    def end_token_ids(self) -> list[int]:
        """Ids that end an answer."""
        return self.prompter.end_token_ids

    @property
    def llm_rate_hz(self) -> float:
        """Speech embeddings per second that the LLM reads."""
        return self.encoder.frame_rate_hz / self.adapter.stride

    def _weights(self, part: str) -> str:
        return "checkpoint" if part in self.unsourced else weights_id(getattr(self, part))

    def fingerprint(self) -> dict:
        """What the parts are; a checkpoint of others is refused."""
        return self._fingerprint

    # ----- what trains -----

    def set_trainable(self, policy: dict, llm_tasks: str | list[str] = "all") -> None:
        """Applies a trainable policy and says which tasks' rows may update the LLM.

        Args:
            policy: ``{part: selector}``, see `select_names`.
            llm_tasks: ``all``, or a list of tasks.
        """
        names = select_names(self, policy)
        apply_policy(self, names)
        self.trained_ever |= names
        ungate_modules(self._gated)
        self._gated = []
        self._llm_tasks = list(TASKS) if llm_tasks == "all" else list(llm_tasks)
        if llm_tasks != "all":
            embeddings = self.llm.get_input_embeddings()
            head = self.llm.get_output_embeddings()

            def gate_of(name: str) -> Gate:
                module = self.llm.get_submodule(name)
                if module is embeddings:
                    return self._gates["embeddings"]
                return self._gates["head" if module is head else "body"]

            self._gated = gate_modules(self.llm, gate_of)

    def set_dtype(self, dtype: torch.dtype) -> None:
        """One dtype for all weights, for decoding; buffers (mel filters) keep theirs."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        match_statistics(self)

    def train(self, mode: bool = True):
        """Train mode for what trains; what is frozen stays in eval mode."""
        set_modes(self, mode)
        return self

    # ----- training -----

    def forward(self, **batch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Cross-entropy of targets and end tokens over a packed batch (Eq. 1).

        Args:
            batch: From `collate`: speech (A, T), speech_lengths (A,), speech_row (A,),
                token_ids (N,), token_lengths (B,), speech_place (B,), is_target (N,), task (B,),
                tgt (B,), augment_seed (A,); a clip with speech_row -1 is the dummy of a batch
                without audio. In place of speech there may be the encoder's frames (A, T, D) and
                frame_lengths (A,), see `espnet_part.frame_cache`. With inner alignment also
                transcript_ids (flat) and transcript_lengths (B,).

        Returns:
            loss: Sum of weighted cross-entropies / number of target tokens; and the alignment,
                weighted alike.
            stats: ``loss``, ``acc`` and ``table``, see `new_table`: sums by task and target
                language.
            weight: Number of target tokens.
        """
        speech_SD, speech_lengths, dummy = self.speech_embeddings(batch)
        layout = packed_layout(batch["token_lengths"], batch["speech_place"], speech_lengths)
        target_N = batch["is_target"].nonzero()[:, 0]
        # A target is predicted from the position before it, which may be a speech frame.
        predict_K = layout.text_at_N[target_N] - 1
        row_K = layout.row_M[predict_K]
        said, layers = None, []
        if self.alignment is not None:
            text, layers = text_pass(batch, layout, speech_lengths), self.alignment.layers
            self._open_gates(batch["task"], text.row_M, text.row_M, text.row_M)
            said = self.alignment.text_states(self.llm, text)
        self._open_gates(batch["task"], layout.row_M, layout.row_M[layout.text_at_N], row_K)
        embeds_ND = self.llm.get_input_embeddings()(batch["token_ids"])
        embeds_MD = splice(embeds_ND, speech_SD, layout)
        if dummy is not None:
            embeds_MD = embeds_MD + dummy.to(embeds_MD.dtype)
        with HiddenStates(self.llm, layers) as hidden:
            logits_KV = self.llm(
                **packed_inputs(embeds_MD, layout.position_M, layout.row_lengths),
                logits_to_keep=predict_K,
            ).logits[0]
        label_K = batch["token_ids"][target_N]
        weights = [self.task_weights[task] for task in TASKS]
        loss, stats = target_loss(
            logits_KV, label_K, batch["task"][row_K], batch["tgt"][row_K], weights
        )
        if self.alignment is not None:
            loss, stats = self.alignment.add(
                loss, stats, hidden.states, said, text, batch, row_K, weights
            )
        return loss, stats, torch.tensor(len(label_K), device=loss.device)

    def speech_embeddings(self, batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Speech embeddings of all rows, their lengths per row, and the dummy's zero."""
        if "frames" in batch:
            frames_ATD, lengths_A = self._adapt(batch["frames"], batch["frame_lengths"])
        else:
            frames_ATD, lengths_A = self.speech_frames(
                batch["speech"], batch["speech_lengths"], batch.get("augment_seed")
            )
        speech_lengths = torch.zeros_like(batch["token_lengths"])
        if int(batch["speech_row"][0]) < 0:
            # Every trained unit runs on every rank in every micro-step, or ranks would wait.
            empty = frames_ATD.new_zeros(0, frames_ATD.shape[2])
            return empty, speech_lengths, frames_ATD.sum() * 0.0
        speech_lengths[batch["speech_row"]] = lengths_A
        return flatten(frames_ATD, lengths_A), speech_lengths, None

    def speech_frames(
        self, speech: Tensor, lengths: Tensor, seeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Waveforms (A, T) to embeddings in the LLM's space (A, T', D) with lengths (A,).

        `seeds` (A,) switch SpecAugment on in training, where the phase asks for it.
        """
        augment = None
        if self.training and self.spec_augment is not None and seeds is not None:

            def augment(features, feature_lengths):
                stacked = getattr(self.encoder, "stacked_frames", 1)
                return self.spec_augment(features, feature_lengths, seeds.tolist(), stacked)

        encoder_trains = any(p.requires_grad for p in self.encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and encoder_trains):
            frames_ATD, frame_lengths = self.encoder(speech, lengths, augment=augment)
        return self._adapt(frames_ATD, frame_lengths)

    def _adapt(self, frames_ATD: Tensor, lengths_A: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.is_autocast_enabled(frames_ATD.device.type):
            frames_ATD = frames_ATD.to(next(self.adapter.parameters()).dtype)
        return self.adapter(frames_ATD, lengths_A)

    def _open_gates(self, task_B, body_M, embeddings_N, head_K) -> None:
        """Tells the gates the rows of the positions that they will see."""
        chosen_B = None
        if self._gated and self.training:
            allowed = torch.tensor([task in self._llm_tasks for task in TASKS])
            chosen_B = allowed.to(task_B.device)[task_B]
        rows = {"body": body_M, "embeddings": embeddings_N, "head": head_K}
        for name, gate in self._gates.items():
            gate.chosen_M = None if chosen_B is None else chosen_B[rows[name]]

    def updates_llm(self, batch) -> Tensor:
        """Whether any row of the batch may update the LLM: (1,) float."""
        allowed = [TASKS.index(task) for task in self._llm_tasks]
        rows = torch.isin(batch["task"], torch.tensor(allowed, device=batch["task"].device))
        return rows.any().float()[None]

    def collect_feats(self, **batch) -> dict[str, Tensor]:
        """ESPnet's statistics hook: the encoder's features and their lengths."""
        features, lengths = self.encoder.features(batch["speech"], batch["speech_lengths"])
        return {"feats": features, "feats_lengths": lengths}

    # ----- decoding -----

    @torch.no_grad()
    def generate(
        self,
        speech: list[np.ndarray | None],
        prompts: list[RenderedPrompt],
        max_new_tokens: list[int],
        num_beams: int = 1,
    ) -> list[Hypothesis]:
        """Decodes a batch; a hypothesis does not depend on its batch mates.

        Args:
            speech: A 16 kHz waveform per row, None for text rows.
            prompts: One per row.
            max_new_tokens: Limit of each row.
            num_beams: 1 is greedy search.
        """
        embeds_BLD, mask_BL = prompt_embeddings(self, speech, prompts)
        return generate(
            self.llm, embeds_BLD, mask_BL, max_new_tokens, self.end_token_ids, num_beams
        )

    # ----- checkpoints -----

    def trimmed_state(self) -> dict:
        """What a checkpoint holds of this model."""
        return model_state(self)

    def load_trimmed_state(self, payload: dict, where: str) -> list[dict]:
        """Loads it; returns the coverage report."""
        return load_model_state(self, payload, where)
