"""PART: multilingual speech LLMs by progressive alignment, as an ESPnet plug-in."""

__version__ = "0.1.0"
