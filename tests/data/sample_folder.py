"A small folder in ROCOv2 layout that tests may change."

import numpy as np
from PIL import Image

NAMES = "CUI,Canonical name\nC0040405,X-Ray Computed Tomography\nC1306645,Plain x-ray\nC0817096,Chest\n"


def make_folder(root):
    "Three splits of three good rows each."
    root.mkdir()
    (root / "cui_mapping.csv").write_text(NAMES)
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        ids = [f"R_{split}_{i:03d}" for i in range(3)]
        (root / f"{split}_images").mkdir()
        (root / f"{split}_captions.csv").write_text("ID,Caption\n" + "".join(f"{i},Chest CT of {i}\n" for i in ids))
        (root / f"{split}_concepts.csv").write_text("ID,CUIs\n" + "".join(f"{i},C0040405;C0817096\n" for i in ids))
        for n, i in enumerate(ids):
            image = Image.fromarray(rng.integers(0, 255, (16, 20), dtype=np.uint8))
            image.save(root / f"{split}_images/{i}.{'png' if n == 2 else 'jpg'}")
    return root


def add(path, text):
    "Append to a file."
    with open(path, "a", newline="") as f:
        f.write(text)
