"""How much the rule from stored values to 8 bits costs on top of pydicom's decoding.

Run `python benchmarks/dicom.py`. The two are run in turn in this process, on one core, and of each the best time of
several rounds counts.
"""

import os

for v in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[v] = "1"
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from radgen.core.files import write_json
from radgen.data.images import load_grey

SIDE, BOUND = 512, 1.3
SYNTAXES = {"uncompressed": None, "JPEG 2000": JPEG2000Lossless}
ROUNDS = {"uncompressed": 600, "JPEG 2000": 60}
WINDOWS = {"window": dict(WindowCenter=40, WindowWidth=400), "no window": {}}


def head_ct(rng):
    "A slice of 12 bits with noise: air, a ring of bone, soft tissue."
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    r = np.hypot(x / 0.8, y)
    hu = np.select([r < 0.62, r < 0.78], [40, 900], -990) + rng.normal(0, 12, r.shape)
    return (hu.clip(-1024, 3071) + 1024).astype("<u2")


def write(path, stored, syntax, tags):
    "A CT slice with the header elements that every scanner writes."
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CTImageStorage, meta.MediaStorageSOPInstanceUID, "CT"
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(ds, name, generate_uid())
    for name in ("Manufacturer", "InstitutionName", "StudyDescription", "SeriesDescription", "ProtocolName"):
        setattr(ds, name, "phantom")
    ds.SliceThickness, ds.KVP, ds.PixelSpacing, ds.ImagePositionPatient = 1.0, 120, [0.5, 0.5], [0, 0, 0]
    ds.Rows = ds.Columns = SIDE
    ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 1, 16, 12, 11, 0
    ds.PhotometricInterpretation, ds.RescaleSlope, ds.RescaleIntercept = "MONOCHROME2", 1, -1024
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.PixelData = stored.tobytes()
    if syntax:
        ds.compress(syntax)
    ds.save_as(path, enforce_file_format=True)


def decode(path):
    "Pixels as pydicom gives them."
    return pydicom.dcmread(path).pixel_array


def seconds(path, rounds):
    "The best time of each function, in turn."
    best = dict.fromkeys((decode, load_grey), np.inf)
    for _ in range(rounds):
        for f in best:
            began = time.perf_counter()
            f(path)
            best[f] = min(best[f], time.perf_counter() - began)
    return best


if __name__ == "__main__":
    out, stored = {}, head_ct(np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        for kind, syntax in SYNTAXES.items():
            for name, tags in WINDOWS.items():
                path = Path(folder) / "a.dcm"
                write(path, stored, syntax, tags)
                best = seconds(path, ROUNDS[kind])
                ratio = best[load_grey] / best[decode]
                label = f"{kind}, {name}"
                out[label] = {f.__name__: round(t * 1000, 3) for f, t in best.items()} | {"ratio": round(ratio, 3)}
                verdict = "met" if ratio <= BOUND else "MISSED"
                times = " ".join(f"{f.__name__} {t * 1000:6.2f} ms" for f, t in best.items())
                print(f"{label:24} {times}: ratio {ratio:.2f} (at most {BOUND}) {verdict}")
    write_json(Path(__file__).parent / "results" / "dicom.json", out)
