"""Installs espnet_part and its commands: `pip install -e .`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# Read, not imported: the build has no torch.
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "espnet_part/__init__.py").read_text(), re.MULTILINE
)

# Not for every user of the library; eSpeak NG and zhconv are under the GPL. `make` installs them.
EXTRAS = {"demo": ("espeakng-loader",), "zh": ("zhconv", "cn2an")}


def requirements(name: str) -> list[str]:
    """The lines of a requirements file, with exact versions loosened to lower bounds.

    A recipe wants the tested versions (`make` gives them), a library must live beside others.
    """
    lines = (line.split("#")[0].strip() for line in (HERE / name).read_text().splitlines())
    # ESPnet itself has no order of versions that we could rely on, setuptools an upper limit.
    apart = ("setuptools", "espnet==", *sum(EXTRAS.values(), ()))
    kept = [line for line in lines if line and not line.startswith(apart)]
    return [line.replace("==", ">=") for line in kept]


setup(
    name="espnet-part",
    version=VERSION.group(1) if VERSION else "0",
    description="PART: multilingual speech recognition and translation with an LLM, on ESPnet",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["espnet_part", "espnet_part.*"]),
    package_data={"espnet_part": ["paper_tables.yaml", "report_page/*"]},
    install_requires=["espnet>=202511", "setuptools<74", *requirements("requirements.txt")],
    extras_require={"dev": requirements("requirements-dev.txt"), **EXTRAS},
    entry_points={
        "console_scripts": [
            "part-train = espnet_part.bin.train:main",
            "part-inference = espnet_part.bin.inference:main",
            "part-transcribe = espnet_part.bin.transcribe:main",
            "part-score = espnet_part.bin.score:main",
            "part-report = espnet_part.bin.report:main",
            "part-pack = espnet_part.bin.pack:main",
        ]
    },
)
