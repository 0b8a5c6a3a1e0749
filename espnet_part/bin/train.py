"""Trains one phase: python -m espnet_part.bin.train --config .../config.yaml --output_dir ..."""

import sys

import yaml

from espnet_part.task import PARTTask


def get_parser():
    """The parser, as ESPnet's tools ask for it."""
    return PARTTask.get_parser()


def main(cmd=None):
    """Runs training; what the user can mend is printed in one line."""
    try:
        PARTTask.main(cmd=cmd)
    except (ValueError, OSError, yaml.YAMLError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
