"""The model card of a packed model: the README that the Hugging Face hub shows."""

import json
from pathlib import Path

import yaml

from espnet_part.prompt import LANGUAGES
from espnet_part.unpack import find_sources

# The hub knows languages by ISO 639; ours are among them.
TAGS = ("espnet", "audio", "automatic-speech-recognition", "speech-translation")


def languages_of(folder: str | Path) -> list[str]:
    """Languages of the results in a pack, in the order of LANGUAGES; empty without results."""
    results = Path(folder) / "results.json"
    if not results.is_file():
        return []
    rows = json.loads(results.read_text(encoding="utf-8")).get("results", [])
    found = {row.get(side) for row in rows for side in ("src", "tgt")}
    return [code for code in LANGUAGES if code in found]


def base_models(config, folder: Path) -> list[str]:
    """Hub ids that the config of a pack names as sources."""
    sources = [holder[key] for _, key, holder in find_sources(config) if key == "source"]
    return [source for source in sources if not (folder / source).exists()]


def model_card(folder: str | Path, repo: str, license_id: str, languages: list[str]) -> str:
    """Writes the card of an unpacked pack.

    Args:
        folder: The pack, with config.yaml and perhaps RESULTS.md.
        repo: Hub id it goes to.
        license_id: The hub's name of the licence, e.g. ``cc-by-4.0``.
        languages: Language codes; empty leaves the field out.

    Returns:
        Markdown with a YAML header.
    """
    folder = Path(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    header: dict = {
        "tags": list(TAGS),
        "library_name": "espnet",
        "pipeline_tag": "automatic-speech-recognition",
        "license": license_id,
    }
    if languages:
        header["language"] = languages
    if base_models(config, folder):
        header["base_model"] = base_models(config, folder)
    lang = languages[0] if languages else "en"
    target = next((code for code in languages if code != lang), "en" if lang != "en" else "de")
    named = ", ".join(LANGUAGES[code] for code in languages) or "see the results"
    results = folder / "RESULTS.md"
    table = results.read_text(encoding="utf-8").strip() if results.is_file() else "None yet."
    # A level down: the card's own title stays the only one.
    table = "\n".join(f"#{line}" if line.startswith("#") else line for line in table.split("\n"))
    return f"""---
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}
---

# {repo}

A speech LLM trained with PART (progressive alignment representation training, arXiv 2509.19745) by
the ESPnet plug-in espnet-part. It transcribes speech and translates it into text.
Languages: {named}.

## How to use

With espnet-part installed:

```python
from espnet_part.inference import Speech2Text

s2t = Speech2Text.from_pretrained("{repo}")
print(s2t.transcribe("speech.wav", lang="{lang}"))
print(s2t.transcribe("speech.wav", task="st", lang="{lang}", tgt_lang="{target}"))
```

or on the command line, for files of any format and length:

```sh
part-transcribe speech.wav --lang {lang} --model {repo}
part-transcribe speech.wav --lang {lang} --to {target} --srt --model {repo}
```

## Results

{table}
"""
