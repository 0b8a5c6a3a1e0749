"""Reads curricula, writes the config of a phase, and draws who trains when.

python -m espnet_part.bin.config phases --curriculum part
python -m espnet_part.bin.config merge --model digits --curriculum part --phase 2a
    --folder exp/digits/part/phase2a --train exp/.../train --valid exp/.../dev
python -m espnet_part.bin.config draw --curriculum part --out docs/images/phases.svg
"""

import argparse
import logging
import sys

from espnet_part.curriculum import INIT_FILES, adopt, load_curriculum, merge
from espnet_part.phase_folder import check_sources, write_config


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_part.bin.config",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    phases = commands.add_parser("phases", help="print the phases of a curriculum, one per line")
    phases.add_argument("--model", help="check this model with it: name in conf/model, or a .yaml")
    phases.add_argument("--phase", nargs="*", help="check these phases (default: all)")
    init = commands.add_parser("init", help="print the file that a phase hands to the next one")
    take = commands.add_parser("adopt", help="make a model YAML of a pack, print its checkpoint")
    take.add_argument("--pretrained", required=True, help="zip, folder or hub id of a pack")
    take.add_argument("--base", required=True, help="conf/model/X.yaml: steps and rates per phase")
    take.add_argument("--out", required=True, help="YAML to write")
    combine = commands.add_parser("merge", help="write config.yaml of one phase")
    check = commands.add_parser("check", help="is a phase's folder of the parts as they are now?")
    check.add_argument("--folder", required=True, help="folder of the phase")
    draw = commands.add_parser("draw", help="draw the phases: which part trains when, on what")
    draw.add_argument("--model", default="part_2b", help="name in conf/model (default: part_2b)")
    draw.add_argument("--title", default="", help="line above")
    draw.add_argument("--out", required=True, help="picture to write, .svg or .png")
    for command in (phases, init, combine, draw):
        command.add_argument("--conf_dir", default="conf", help="the recipe's conf folder")
        command.add_argument("--curriculum", required=True, help="name in conf/curriculum")
    combine.add_argument("--model", required=True, help="name in conf/model, or a .yaml")
    combine.add_argument("--phase", required=True, help="one of the curriculum's phases")
    combine.add_argument("--folder", required=True, help="where to write config.yaml")
    combine.add_argument("--train", nargs="+", required=True, help="manifests to train on")
    combine.add_argument("--valid", nargs="*", default=[], help="manifests to validate on")
    combine.add_argument("--init", help="checkpoint of the phase before")
    for command in (phases, combine):
        command.add_argument(
            "--set", nargs="*", default=[], metavar="KEY=VALUE", help="e.g. lr.adapter=1e-4 seed=3"
        )
    return parser


def main(cmd=None) -> None:
    """Runs the command."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        if args.command == "phases":
            names = load_curriculum(args.conf_dir, args.curriculum)["phases"]
            if args.model is not None:  # a phase's merge checks the YAMLs of all of them
                logging.disable(logging.WARNING)  # stage 11 says it again
                for name in [name for name in names if name in (args.phase or names)]:
                    merge(
                        *(args.conf_dir, args.model, args.curriculum, name, ["none"], ["none"]),
                        settings=args.set,
                    )
            print(*names, sep="\n")
        elif args.command == "init":
            print(INIT_FILES[load_curriculum(args.conf_dir, args.curriculum)["init"]])
        elif args.command == "adopt":
            print(adopt(args.pretrained, args.base, args.out))
        elif args.command == "check":
            check_sources(args.folder)
        elif args.command == "draw":
            # Here, not above: the other commands need no matplotlib.
            from espnet_part.pictures import curriculum_settings, draw_phases, save

            settings = curriculum_settings(args.conf_dir, args.model, args.curriculum)
            print(save(draw_phases(settings, args.title), args.out))
        else:
            config = merge(
                args.conf_dir,
                args.model,
                args.curriculum,
                args.phase,
                args.train,
                args.valid,
                args.init,
                args.set,
            )
            print(write_config(config, args.folder))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
