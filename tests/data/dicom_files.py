"Small DICOM files that are written on the spot."

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STORED = np.arange(0, 4096, 4, dtype=np.uint16).reshape(32, 32)
CT = np.full((64, 64), -1000, np.int16)  # Hounsfield units: air, soft tissue, a little bone
CT[16:48, 16:48] = 40
CT[20:22, 20:22] = 400


def dataset(stored, syntax=ExplicitVRLittleEndian, **tags):
    "A data set of the stored values with a patient in its header."
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds = FileDataset("a", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "ROE^JANE", "MRN7788", "19510203"
    ds.InstitutionName, ds.AccessionNumber = "St Elsewhere", "ACC991"
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Rows, ds.Columns = stored.shape[-2:]
    bits = stored.dtype.itemsize * 8
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, int(stored.dtype.kind == "i")
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    if stored.ndim == 3:
        ds.NumberOfFrames = len(stored)
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.PixelData = stored.tobytes()
    return ds


def dicom(path, stored, **tags):
    "A DICOM file of the stored values; returns its path."
    dataset(stored, **tags).save_as(path, enforce_file_format=True)
    return path


def ct(path, hu=CT, **tags):
    "A CT in Hounsfield units."
    return dicom(path, hu, **(dict(Modality="CT", RescaleSlope=1, RescaleIntercept=0) | tags))
