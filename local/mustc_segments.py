"""The lists of segments of MuST-C: YAML of a plain form, 230,000 entries long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

# - {duration: 3.500000, offset: 16.080000, rW: 9, uW: 0, speaker_id: spk.767, wav: ted_767.wav}
_PAIR = r"[A-Za-z_]+: [\w.+/-]+"
_LINE = re.compile(rf"- \{{({_PAIR}(?:, {_PAIR})*)\}}\s*")


@dataclass(frozen=True)
class Segment:
    """A part of a talk.

    Attributes:
        talk: Name of its audio file, without `.wav`.
        start_sec: In the talk.
        end_sec: In the talk.
        speaker: As the list names it.
    """

    talk: str
    start_sec: float
    end_sec: float
    speaker: str

    @classmethod
    def from_entry(cls, entry: dict[str, str]) -> Segment | None:
        """The segment that an entry of a list tells; None if it lacks something."""
        try:
            start = float(entry["offset"])
            end = start + float(entry["duration"])
            return cls(entry["wav"].removesuffix(".wav"), start, end, entry["speaker_id"])
        except (KeyError, ValueError):
            return None

    @property
    def clip(self) -> str:
        """Its id: `<talk>-<start>-<end>` in ms."""
        return f"{self.talk}-{round(1000 * self.start_sec):07d}-{round(1000 * self.end_sec):07d}"

    def widened(self, seconds: float) -> Segment:
        """At least so long, around the same middle."""
        if self.end_sec - self.start_sec >= seconds:
            return self
        start = max(0.0, (self.start_sec + self.end_sec - seconds) / 2)
        return replace(self, start_sec=start, end_sec=start + seconds)


def read_entries(path: Path) -> Iterator[dict[str, str]]:
    """Yields the entries of a segment list, values as text, in the order of the file.

    A list in the form that MuST-C has is read line by line, which takes a second where a YAML
    parser takes minutes; in any other form (quotes, entries over several lines) it goes through
    one, event by event. Neither keeps the list in memory.

    Raises:
        ValueError: No YAML, or not a list of flat mappings.
    """
    return _read_plain(path) if _is_plain(path) else _read_any(path)


def _is_plain(path: Path) -> bool:
    with path.open(encoding="utf-8-sig") as file:
        return all(_LINE.fullmatch(line) for line in file if line.strip())


def _read_plain(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if found := _LINE.fullmatch(line):
                yield dict(pair.split(": ", 1) for pair in found[1].split(", "))


def _read_any(path: Path) -> Iterator[dict[str, str]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    entry: dict[str, str] = {}
    key: str | None = None
    with path.open(encoding="utf-8-sig") as file:
        try:
            for event in yaml.parse(file, Loader=loader):
                if isinstance(event, yaml.CollectionStartEvent):
                    depth += 1
                    wanted = yaml.SequenceStartEvent if depth == 1 else yaml.MappingStartEvent
                    if depth > 2 or not isinstance(event, wanted):
                        raise _other_form(path, event)
                elif isinstance(event, yaml.CollectionEndEvent):
                    depth -= 1
                    if depth == 1:
                        yield entry
                        entry, key = {}, None
                elif isinstance(event, yaml.ScalarEvent):
                    if depth != 2:
                        raise _other_form(path, event)
                    if key is None:
                        key = event.value
                    else:
                        entry[key], key = event.value, None
        except yaml.YAMLError as err:
            raise ValueError(f"{path}: found no YAML, expected a list of segments: {err}") from None


def _other_form(path: Path, event: yaml.Event) -> ValueError:
    return ValueError(
        f"{path}: line {event.start_mark.line + 1}: found another form than a list of segments, "
        "expected lines like `- {duration: 3.5, offset: 16.08, speaker_id: spk.1, wav: ted_1.wav}`"
    )
