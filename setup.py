"""Package metadata read from settings.ini, the one place where it is written."""

from configparser import ConfigParser
from setuptools import setup, find_packages

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
split = lambda name: cfg.get(name, "").split()

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["radgen", "radgen.*"]),
    package_data={"radgen": split("package_data")},
    python_requires=f">={cfg['min_python']}",
    install_requires=split("requirements"),
    extras_require={extra: split(f"{extra}_requirements") for extra in ("dev", "app", "ray", "dicom")},
    entry_points={"console_scripts": split("console_scripts"), "nbdev": ["radgen=radgen._modidx:d"]},
)
