"""Which translation model: found, checked before anything is loaded, and loaded.

translator = load_translator(ModelSpec("facebook/m2m100_418M"), "cuda", "bfloat16")
ids = translator.encode(["Hallo", "Guten Tag"], "de", "en")
translator.generate(ids, "de", "en")                              # one Translation each
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parts import is_hub_id
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
)
from translator_languages import check_directions, find_codes
from translator_models import MARK, Asking, ChatTranslator, Seq2SeqTranslator, Translator

from espnet_part.llm import DTYPES

CHAT_PROMPT = (
    "Translate the following {src} text into {tgt}. Answer with the translation only.\n\n{text}"
)


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and how it is asked.

    Attributes:
        source: hub id or folder.
        revision: of the hub repository.
        asking: prompt, beams, limit of length. A chat LLM without a prompt gets `CHAT_PROMPT`.
    """

    source: str
    revision: str | None = None
    asking: Asking = Asking()


def load_parts(spec: ModelSpec):
    """Load what is cheap of a model: config and tokenizer.

    Returns:
        (kind, config, tokenizer), kind being `seq2seq` or `chat`.

    Raises:
        ValueError: no such model, or one that cannot translate.
    """
    if not Path(spec.source).is_dir() and not is_hub_id(spec.source):
        raise ValueError(f"--model {spec.source}: no such folder; expected one, or a hub id")
    try:
        config = AutoConfig.from_pretrained(spec.source, revision=spec.revision)
        tokenizer = AutoTokenizer.from_pretrained(spec.source, revision=spec.revision)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"--model {spec.source}: could not be loaded ({error}); expected a folder or a hub id "
            "that is in the cache or can be fetched"
        ) from error
    if config.is_encoder_decoder and type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        return "seq2seq", config, tokenizer
    if not config.is_encoder_decoder and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        if getattr(tokenizer, "chat_template", None):
            return "chat", config, tokenizer
        raise ValueError(
            f"--model {spec.source}: an LLM without a chat template, which would go on with the "
            "text instead of translating it; choose its instruction-tuned form"
        )
    raise ValueError(
        f"--model {spec.source}: a {config.model_type} model is neither sequence-to-sequence nor "
        "an LLM; expected a translation model such as facebook/m2m100_418M, or a chat LLM"
    )


def check_model(spec: ModelSpec, pairs: list[tuple[str, str]]) -> dict:
    """Check that a model can do what is asked, without loading its weights.

    Args:
        spec: the model.
        pairs: (source, target) languages of all that is to be translated.

    Returns:
        What the results depend on, as plain values: of a hub id the commit, of a folder the sizes
        and times of its files.

    Raises:
        ValueError: as `load_parts`, or a language that the model does not know, or a bad prompt.
    """
    kind, config, tokenizer = load_parts(spec)
    if spec.asking.prompt is not None:
        _check_prompt(spec.asking.prompt)
    if kind == "seq2seq":
        languages = find_codes(tokenizer)
        if spec.asking.prompt is not None and languages.scheme != "fixed":
            raise ValueError(
                f"--prompt: {spec.source} has language codes and takes the bare text; leave it out"
            )
        check_directions(spec.source, languages, tokenizer, pairs, spec.asking.prompt is not None)
    folder = Path(spec.source)
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    stats = {path.name: path.stat() for path in files}
    return {
        "model": spec.source,
        "revision": spec.revision,
        "commit": getattr(config, "_commit_hash", None),
        "model_files": {name: [s.st_size, s.st_mtime_ns] for name, s in stats.items()},
        "prompt": _prompt(spec, kind),
        "num_beams": spec.asking.num_beams,
        "max_ratio": spec.asking.max_ratio,
    }


def load_translator(spec: ModelSpec, device: str, dtype: str) -> Translator:
    """Load a model.

    Args:
        spec: the model.
        device: `cpu`, `cuda`.
        dtype: `float32` or `bfloat16`.

    Raises:
        ValueError: as `load_parts`.
    """
    kind, _, tokenizer = load_parts(spec)
    cls = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
    # Where there are no safetensors (OPUS-MT has models without), tensors are unpickled and
    # nothing else.
    model: Any = cls.from_pretrained(
        spec.source, revision=spec.revision, dtype=DTYPES[dtype], weights_only=True
    )
    model.to(device).requires_grad_(False).eval()
    asking = replace(spec.asking, prompt=_prompt(spec, kind))
    return (Seq2SeqTranslator if kind == "seq2seq" else ChatTranslator)(model, tokenizer, asking)


def _prompt(spec: ModelSpec, kind: str) -> str | None:
    return spec.asking.prompt or (CHAT_PROMPT if kind == "chat" else None)


def _check_prompt(prompt: str) -> None:
    try:
        shown = prompt.format(src="", tgt="", text=MARK)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"--prompt {prompt!r}: bad slot ({error!r}); expected {{text}}, {{src}} and {{tgt}}"
        ) from None
    if shown.count(MARK) != 1:
        raise ValueError(f"--prompt {prompt!r}: expected {{text}} in it, once")
