"""Package metadata read from settings.ini, the one place where it is written."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(HERE / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


def split(name):
    "The values of a setting, separated by white space."
    return cfg.get(name, "").split()


extras = {name: split(f"{name}_requirements") for name in split("extras")}
extras["all"] = sorted({requirement for requirements in extras.values() for requirement in requirements})
extras["dev"] = split("dev_requirements")

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["radgen", "radgen.*"]),
    package_data={"": split("package_data")},
    python_requires=f">={cfg['min_python']}",
    install_requires=split("requirements"),
    extras_require=extras,
    entry_points={"console_scripts": split("console_scripts"), "nbdev": ["radgen=radgen._modidx:d"]},
)
