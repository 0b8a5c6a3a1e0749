"""Tiny random encoders and LLMs in Hugging Face folder form, made on the spot.

They go through the same ``from_pretrained`` as real ones. The tests and the corpus `toy` use them:

    python local/toy_parts.py --out exp/toy_parts            # encoder/ and llm/
"""

import argparse
import io
from pathlib import Path

import torch

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Enough text for both tokenizers to see the scripts of the thirteen languages.
TEXT = [
    "Transcribe the English speech.",
    "Translate the German speech into Chinese.",
    "one two three four five six seven eight nine zero",
    "eins zwei drei vier fünf, où est-ce que ça va? señor già",
    "一 二 三 四 五 你好 零三五 ひとつ ふたつ カタカナ 하나 둘 раз два три سلام satu dua ett två",
]


def make_tokenizer(kind: str):
    """A byte-level BPE tokenizer with a chat template, or a SentencePiece one without.

    Args:
        kind: ``byte`` or ``sentencepiece``.
    """
    if kind == "byte":
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(TEXT, trainer)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
        )
        fast.chat_template = CHATML
        return fast
    if kind == "sentencepiece":
        import sentencepiece
        from transformers import LlamaTokenizer

        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT),
            model_writer=model,
            vocab_size=400,
            model_type="bpe",
            byte_fallback=True,
            character_coverage=1.0,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        merges = [
            (a, b)
            for piece in pieces
            for a, b in ((piece[:i], piece[i:]) for i in range(1, len(piece)))
            if a in pieces and b in pieces
        ]
        return LlamaTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=merges)
    raise ValueError(f"kind of tokenizer: found {kind!r}, expected 'byte' or 'sentencepiece'")


def make_llm(folder, kind: str = "byte", seed: int = 0, scale: float = 6.0) -> str:
    """Saves a two-layer random causal LM with its tokenizer; returns the folder's name.

    Args:
        folder: Where to save.
        kind: ``byte`` (a Qwen2, tied embeddings) or ``sentencepiece`` (a Llama, untied).
        seed: Of the random weights.
        scale: Factor on the matrices. Default initialization makes a random LM repeat one token,
            which no test of decoding would notice; with larger matrices its output varies.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer(kind)
    sizes = dict(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "byte":
            llm = Qwen2ForCausalLM(Qwen2Config(tie_word_embeddings=True, **sizes))
        else:
            llm = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=False, **sizes))
        with torch.no_grad():
            for parameter in llm.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(scale)
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


ENCODER_SIZES = {
    "sensevoice": dict(
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_hidden_layers=10,
        num_timestamp_prediction_layers=2,
    ),
    "whisper": dict(
        d_model=32,
        encoder_layers=10,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        num_mel_bins=80,
        vocab_size=100,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    ),
    "transformers": dict(
        model_type="wav2vec2-bert",
        hidden_size=32,
        num_hidden_layers=10,
        num_attention_heads=4,
        intermediate_size=64,
        feature_projection_input_dim=160,
        add_adapter=False,
    ),
    "espnet": dict(
        encoder="e_branchformer",
        encoder_conf=dict(
            output_size=32,
            attention_heads=4,
            linear_units=64,
            cgmlp_linear_units=64,
            cgmlp_conv_kernel=7,
            num_blocks=10,
            attention_layer_type="rel_selfattn",
            pos_enc_layer_type="rel_pos",
            rel_pos_type="latest",
        ),
    ),
}


def make_encoder(folder, kind: str = "sensevoice", seed: int = 0) -> str:
    """Saves a ten-layer random encoder of `kind` in Hugging Face folder form; returns its name."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = dict(ENCODER_SIZES[kind])
        if kind == "sensevoice":
            config = transformers.FunAsrNanoEncoderConfig(**sizes)
            transformers.FunAsrNanoEncoder(config).save_pretrained(folder)
        elif kind == "whisper":
            config = transformers.WhisperConfig(**sizes)
            transformers.WhisperModel(config).save_pretrained(folder)
            transformers.WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
        elif kind == "transformers":
            sizes.pop("model_type")
            config = transformers.Wav2Vec2BertConfig(**sizes)
            transformers.Wav2Vec2BertModel(config).save_pretrained(folder)
            transformers.SeamlessM4TFeatureExtractor().save_pretrained(folder)
        elif kind == "espnet":
            from espnet_part.encoder import build_encoder

            build_encoder("espnet", config=sizes).save_pretrained(folder)
        else:
            raise ValueError(f"kind of encoder: found {kind!r}, expected one of {[*ENCODER_SIZES]}")
    return str(folder)


def main() -> None:
    """Makes the parts of the corpus `toy`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for encoder/ and llm/")
    parser.add_argument("--encoder", default="sensevoice", choices=sorted(ENCODER_SIZES))
    parser.add_argument("--llm", default="byte", choices=["byte", "sentencepiece"])
    args = parser.parse_args()
    print("encoder:", make_encoder(args.out / "encoder", args.encoder))
    print("llm:", make_llm(args.out / "llm", args.llm))


if __name__ == "__main__":
    main()
