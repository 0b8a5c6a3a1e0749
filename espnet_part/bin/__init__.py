"""Commands: ``python -m espnet_part.bin.<name> --help``."""
