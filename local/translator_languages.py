"""How translation models are told the languages: codes before the text, first words of the answer.

A *scheme* is one of

    src_lang   the tokenizer marks the source, and the answer is made to begin with a token of the
               target (NLLB deu_Latn, M2M100 __de__, mBART-50 de_DE)
    prefix     a token of the target before the source (OPUS-MT with several targets >>deu<<,
               MADLAD-400 <2de>)
    fixed      no codes: one direction, the model's own (OPUS-MT of two languages), or told in words
               by a prompt (T5)

found by looking which codes the tokenizer knows. Codes: NLLB's and mBART-50's from the tokenizers'
lists in transformers, M2M100's from there too, MADLAD's from its card's list of languages.
"""

from dataclasses import dataclass

from espnet_part.prompt import LANGUAGES

# By our code: the codes of other people, the likeliest first.
_CODES = {
    "zh": ("zho_Hans", "zh_CN", "cmn_Hans", "cmn", "zho", "zh_cn", "zh"),
    "en": ("eng_Latn", "en_XX", "eng", "en"),
    "ja": ("jpn_Jpan", "ja_XX", "jpn", "jap", "ja"),
    "ko": ("kor_Hang", "ko_KR", "kor", "ko"),
    "yue": ("yue_Hant", "yue"),
    "de": ("deu_Latn", "de_DE", "deu", "de"),
    "fr": ("fra_Latn", "fr_XX", "fra", "fr"),
    "ru": ("rus_Cyrl", "ru_RU", "rus", "ru"),
    "es": ("spa_Latn", "es_XX", "spa", "es"),
    "it": ("ita_Latn", "it_IT", "ita", "it"),
    "sv": ("swe_Latn", "sv_SE", "swe", "sv"),
    "id": ("ind_Latn", "id_ID", "ind", "id"),
    "ar": ("arb_Arab", "ar_AR", "ara", "arb", "ar"),
}
# How a code becomes a token.
_FORMS = {"src_lang": ("__{}__", "{}"), "prefix": (">>{}<<", "<2{}>")}


@dataclass(frozen=True)
class LanguageCodes:
    """What a model's tokenizer knows of our languages.

    Attributes:
        scheme: `src_lang`, `prefix` or `fixed`.
        codes: our code to the model's; for `fixed` those of its one direction, where it says so.
        tokens: our code to the token of it; empty for `fixed`.
    """

    scheme: str
    codes: dict[str, str]
    tokens: dict[str, str]


def find_codes(tokenizer) -> LanguageCodes:
    """Find out how a model is told the languages.

    Args:
        tokenizer: of a sequence-to-sequence model.
    """
    known = {**tokenizer.get_vocab(), **getattr(tokenizer, "lang_token_to_id", {})}
    for scheme, forms in _FORMS.items():
        if scheme == "src_lang" and not hasattr(tokenizer, "src_lang"):
            continue
        for form in forms:
            # Bare "id" and "it" are pieces of words, "id_ID" is not.
            codes = {
                ours: next(
                    (c for c in theirs if form.format(c) in known and (form != "{}" or "_" in c)),
                    None,
                )
                for ours, theirs in _CODES.items()
            }
            found = {ours: code for ours, code in codes.items() if code is not None}
            if found:
                tokens = {ours: form.format(code) for ours, code in found.items()}
                return LanguageCodes(scheme, found, tokens)
    return LanguageCodes("fixed", {}, {})


def own_direction(tokenizer) -> tuple[str | None, str | None]:
    """Our codes of the one direction that a tokenizer names; None where it names none of ours."""
    names = (getattr(tokenizer, name, None) for name in ("source_lang", "target_lang"))
    source, target = (
        next((ours for ours, codes in _CODES.items() if name in codes), None) for name in names
    )
    return source, target


def check_directions(
    model: str, languages: LanguageCodes, tokenizer, pairs: list[tuple[str, str]], prompted: bool
) -> None:
    """Check that a model can translate between languages.

    Args:
        model: its name, for messages.
        languages: of `find_codes`.
        tokenizer: of the model.
        pairs: (source, target) of all that is to be translated.
        prompted: whether a prompt names the languages.

    Raises:
        ValueError: a language that the model does not know, or several directions for a model of
            one.
    """
    if languages.scheme == "fixed":
        if not prompted:
            _check_own_direction(model, own_direction(tokenizer), pairs)
        return
    # Where only the target has a token, nobody asks which language the source is in.
    asked = [tgt for _, tgt in pairs]
    asked += [src for src, _ in pairs] if languages.scheme == "src_lang" else []
    missing = [lang for lang in LANGUAGES if lang in asked and lang not in languages.codes]
    if missing:
        raise ValueError(
            f"{model}: the model does not know {', '.join(_named(lang) for lang in missing)}; it "
            f"knows {' '.join(languages.codes)}; leave that out of --tgt (or the rows out of the "
            "data folder), or choose another model"
        )


def _check_own_direction(model: str, own: tuple, pairs: list[tuple[str, str]]) -> None:
    if len(pairs) > 1:
        shown = ", ".join(f"{src} to {tgt}" for src, tgt in pairs)
        raise ValueError(
            f"{model}: the model has no language codes, so it translates in one direction; found "
            f"{shown}: make a run and an output folder for each, with the model of that direction"
        )
    for (src, tgt), known, lang in ((pair, own[i], pair[i]) for pair in pairs for i in (0, 1)):
        if known is not None and known != lang:
            raise ValueError(
                f"{model}: found {src} to {tgt} to translate, but the model is for "
                f"{own[0] or '?'} to {own[1] or '?'}; choose a model of that direction"
            )


def _named(lang: str) -> str:
    return f"{lang} ({LANGUAGES[lang]})"
