"""How to decode: the keys of the files in conf/decode."""

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path

import yaml

from espnet_part.segmentation import MIN_PIECE_SEC


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode.

    Attributes:
        batch_size: Most pieces decoded at once.
        batch_sec: Most seconds of audio decoded at once, padding included.
        beam_size: 1 is greedy search.
        maxlenratio: Tokens allowed per second of audio, or per token of a source text.
        maxlenextra: Tokens allowed on top, whatever the length.
        maxlencap: Tokens allowed at most.
        max_sec: Longer audio is cut at its pauses into pieces of at most this.
        pause_sec: Pauses of this length or longer end a piece in any case; 0: none does.
    """

    batch_size: int = 16
    batch_sec: float = 300.0
    beam_size: int = 1
    maxlenratio: float = 30.0
    maxlenextra: int = 20
    maxlencap: int = 1024
    max_sec: float = 30.0
    pause_sec: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            wanted = (int,) if field.type is int else (int, float)
            if isinstance(value, bool) or not isinstance(value, wanted):
                raise ValueError(
                    f"decode option {field.name}: found {value!r}, "
                    f"expected {'a whole number' if field.type is int else 'a number'}"
                )
            least = 2 * MIN_PIECE_SEC if field.name == "max_sec" else 0
            least = 1 if field.name in ("batch_size", "beam_size", "maxlencap") else least
            if not value >= least or (field.name == "batch_sec" and value == 0):
                raise ValueError(
                    f"decode option {field.name}: found {value!r}, expected at least {least}"
                )

    @classmethod
    def from_yaml(cls, path: str | Path) -> "DecodeOptions":
        """Reads a file of conf/decode.

        Raises:
            ValueError: If it holds a key that is no option, or a value out of range.
        """
        text = Path(path).read_text(encoding="utf-8")
        try:
            content = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from error
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(content, dict):
            raise ValueError(f"{path}: found {type(content).__name__}, expected keys and values")
        unknown = [key for key in content if key not in names]
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), names, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"{path}: unknown decode option {unknown[0]!r}; did you mean {near}? "
                f"expected some of {' '.join(names)}"
            )
        return cls(**content)

    def token_limit(self, length: float) -> int:
        """Tokens allowed for `length` seconds of audio (or tokens of source text)."""
        return max(1, min(self.maxlencap, int(self.maxlenratio * length) + self.maxlenextra))
