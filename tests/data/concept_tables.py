"Tables of concepts worked out by hand, and the official files read without radgen."

import csv

import pandas as pd

from helpers import OFFICIAL

SPLITS = ("train", "valid", "test")
CAPTIONS = {"train": 13476, "valid": 9903, "test": 9927}
NAMES = {"C0000001": "CT", "C0000002": "Chest", "C0000003": "Cyst"}
ONE, TWO, THREE = NAMES


def toy(*cuis, split="train"):
    "A row for each list of CUIs."
    return pd.DataFrame(
        {"id": [str(i) for i in range(len(cuis))], "caption": "CT", "cuis": list(cuis), "image": "", "split": split}
    )


def both(a, b):
    "Lists of CUIs of the train split and of the test split."
    return pd.concat([toy(*a), toy(*b, split="test")], ignore_index=True)


def lines(name):
    "The rows of an official file, by the csv module alone."
    with open(OFFICIAL / name, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))
