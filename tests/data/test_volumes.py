"Volumes: slices in radiological orientation from any order of voxels, and what is refused."

import bz2
import gzip
import itertools
import os
import zlib

import numpy as np
import pytest

from radgen.core.errors import ConfigError
from radgen.data import volume_headers, volumes
from radgen.data.files import ImageError
from radgen.data.volume_headers import read_layout
from radgen.data.volumes import (
    is_volume,
    looks_like_hu,
    slice_member,
    slice_names,
    volume_fault,
    volume_is_hu,
    volume_slice,
)

nib = pytest.importorskip("nibabel")
nrrd = pytest.importorskip("nrrd")

SHAPE = (20, 24, 28)  # voxels to the right, to the front and to the head
SCAN = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
ORDERS = ["".join(axes) for pairs in itertools.permutations(("RL", "AP", "SI")) for axes in itertools.product(*pairs)]
AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def reorder(order, spacing=(1.0, 1.0, 1.0)):
    "The scan with its axes in another order, and the direction of each (rows: mm to the right, front, head)."
    axes = [AXES[letter] for letter in order]
    voxels = SCAN.transpose([axis for axis, _ in axes])
    voxels = voxels[tuple(slice(None, None, sign) for _, sign in axes)]
    return voxels, np.array([sign * spacing[axis] * np.eye(3)[axis] for axis, sign in axes])


def save_nifti(path, voxels, rows, kind=nib.Nifti1Image):
    affine = np.eye(4)
    affine[:3, :3] = rows.T
    nib.save(kind(voxels, affine), path)
    return path


def save_nrrd(path, voxels, rows, space="left-posterior-superior", encoding="gzip", **fields):
    signs = {"l": -1, "r": 1, "p": -1, "a": 1}
    letters = [word[0] for word in space.split("-")] if "-" in space else list(space.lower())
    rows = rows * [signs[letters[0]], signs[letters[1]], 1]
    header = {"space": space, "space directions": rows, "encoding": encoding, **fields}
    nrrd.write(str(path), voxels, header, detached_header=path.suffix == ".nhdr")
    return path


def meta_header(voxels, rows=None, data="LOCAL", **fields):
    "The header of a MetaImage, whose axes count to the left, the back and the head."
    fields = {"ObjectType": "Image", "NDims": voxels.ndim, "ElementType": "MET_SHORT", **fields}
    fields["DimSize"] = " ".join(map(str, voxels.shape))
    if rows is not None:
        spacing = np.linalg.norm(rows, axis=1)
        directions = rows / spacing[:, None] * [-1, -1, 1]
        fields["TransformMatrix"] = " ".join(map(str, directions.ravel()))
        fields["ElementSpacing"] = " ".join(map(str, spacing))
    lines = [f"{name} = {value}\n" for name, value in (fields | {"ElementDataFile": data}).items()]
    return "".join(lines).encode()


def save_meta(path, voxels, rows=None, compress=False, **fields):
    content = voxels.tobytes(order="F")
    if compress:
        content = zlib.compress(content)
        fields |= {"CompressedData": "True", "CompressedDataSize": len(content)}
    data = "LOCAL" if path.suffix == ".mha" else f"{path.stem}.raw"
    header = meta_header(voxels, rows, data, **fields)
    if data == "LOCAL":
        path.write_bytes(header + content)
    else:
        path.write_bytes(header)
        path.with_name(data).write_bytes(content)
    return path


def check_scan(path):
    "The three planes of the scan: patient's right on the left, front above or on the left, head above."
    np.testing.assert_array_equal(volume_slice(path, "axial", 5), SCAN[::-1, ::-1, 5].T)
    np.testing.assert_array_equal(volume_slice(path, "coronal", 6), SCAN[::-1, 6, ::-1].T)
    np.testing.assert_array_equal(volume_slice(path, "sagittal", 7), SCAN[7, ::-1, ::-1].T)


def test_axial_slice_has_the_right_on_the_left_and_the_front_above(tmp_path):
    "Worked example: voxels near the feet, one marked at the patient's right, one at the front, one at the head."
    voxels = np.zeros(SHAPE, np.int16)
    voxels[19, 12, 0] = 1  # right
    voxels[10, 23, 0] = 2  # front
    voxels[10, 12, 27] = 3  # head
    path = save_nifti(tmp_path / "a.nii", voxels, np.eye(3))
    axial = volume_slice(path, "axial", 0)
    assert axial.shape == (24, 20)
    assert axial[11, 0] == 1
    assert axial[0, 9] == 2
    assert volume_slice(path, "coronal", 12)[0, 9] == 3
    assert volume_slice(path, "sagittal", 10)[0, 11] == 3
    assert volume_slice(path, "sagittal", 10)[27, 0] == 2


@pytest.mark.parametrize("order", ORDERS)
def test_all_orders_of_axes_give_the_same_slices(order, tmp_path):
    voxels, rows = reorder(order)
    check_scan(save_nifti(tmp_path / "a.nii", voxels, rows))
    check_scan(save_nrrd(tmp_path / "a.nrrd", voxels, rows))
    check_scan(save_meta(tmp_path / "a.mha", voxels, rows))


@pytest.mark.parametrize("space", ["right-anterior-superior", "LAS", "left-posterior-superior", "RAS"])
@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_nrrd_spaces_and_encodings(space, encoding, tmp_path):
    voxels, rows = reorder("PSR")
    check_scan(save_nrrd(tmp_path / "a.nrrd", voxels, rows, space, encoding))
    check_scan(save_nrrd(tmp_path / "b.nhdr", voxels, rows, space, encoding))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "A.MHA"])
def test_meta_images_with_and_without_compression(name, compress, tmp_path):
    voxels, rows = reorder("SLP")
    path = tmp_path / name
    if path.suffix == ".MHA":
        save_meta(tmp_path / "a.mha", voxels, rows, compress).rename(path)
    else:
        save_meta(path, voxels, rows, compress)
    check_scan(path)


def test_meta_image_of_the_other_byte_order(tmp_path):
    voxels, rows = reorder("LPS")
    check_scan(save_meta(tmp_path / "a.mha", voxels.astype(">i2"), rows, BinaryDataByteOrderMSB="True"))


def test_meta_image_without_a_matrix_counts_to_the_left_the_back_and_the_head(tmp_path):
    check_scan(save_meta(tmp_path / "a.mha", reorder("LPS")[0]))


def test_meta_image_whose_voxels_are_at_the_end_of_the_file(tmp_path):
    save_meta(tmp_path / "a.mhd", reorder("LPS")[0], HeaderSize=-1)
    raw = tmp_path / "a.raw"
    raw.write_bytes(b"a header of the scanner" + raw.read_bytes())
    check_scan(tmp_path / "a.mhd")


def test_nrrd_whose_voxels_are_at_the_end_of_the_file(tmp_path):
    voxels, rows = reorder("RAS")
    path = save_nrrd(tmp_path / "a.nhdr", voxels, rows, encoding="raw")
    raw = tmp_path / "a.raw"
    raw.write_bytes(b"a header of the scanner" + raw.read_bytes())
    path.write_text(path.read_text().replace("encoding: raw", "encoding: raw\nbyte skip: -1"))
    check_scan(path)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_of_both_versions_compressed_whatever_its_name(kind, tmp_path):
    voxels, rows = reorder("AIL")
    path = save_nifti(tmp_path / "a.nii", voxels, rows, kind)
    check_scan(path)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    check_scan(tmp_path / "b.nii.gz")
    (tmp_path / "c.nii").write_bytes(gzip.compress(path.read_bytes()))
    check_scan(tmp_path / "c.nii")
    (tmp_path / "d.nii.gz").write_bytes(path.read_bytes())
    check_scan(tmp_path / "d.nii.gz")


def test_oblique_and_sheared_volumes_keep_their_grid_in_the_nearest_order(tmp_path):
    voxels, rows = reorder("LPS")
    turn = np.array([[0.95, 0.31, 0.0], [-0.31, 0.95, 0.0], [0.0, 0.2, 1.0]])
    check_scan(save_nifti(tmp_path / "a.nii", voxels, rows @ turn))


def test_slope_and_intercept_of_nifti(tmp_path):
    image = nib.Nifti1Image(SCAN, np.eye(4))
    image.header.set_slope_inter(2, -1024)
    path = tmp_path / "a.nii"
    nib.save(image, path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([2, -1024], "<f4").tobytes()  # nibabel scales by its own numbers
    content[352:] = SCAN.tobytes(order="F")
    path.write_bytes(content)
    np.testing.assert_array_equal(volume_slice(path, "axial", 5), 2.0 * SCAN[::-1, ::-1, 5].T - 1024)


def test_first_time_point_of_several_is_read(tmp_path):
    series = np.stack([SCAN, SCAN + 1, SCAN + 2], -1)
    nib.save(nib.Nifti1Image(series, np.eye(4)), tmp_path / "a.nii.gz")
    check_scan(tmp_path / "a.nii.gz")
    turned = series[::-1, ::-1]
    save_meta(tmp_path / "b.mha", turned)
    check_scan(tmp_path / "b.mha")
    header = {"kinds": ["domain", "domain", "domain", "list"]}
    nrrd.write(str(tmp_path / "c.nrrd"), turned, header)
    check_scan(tmp_path / "c.nrrd")


def test_two_dimensional_files_have_one_axial_slice(tmp_path):
    image = np.arange(20 * 30, dtype=np.int16).reshape(20, 30)
    save_meta(tmp_path / "a.mha", image)
    nrrd.write(str(tmp_path / "b.nrrd"), image)
    for name in "a.mha", "b.nrrd":
        np.testing.assert_array_equal(volume_slice(tmp_path / name), image.T)
        assert slice_names(tmp_path / name, "every:5") == [f"{tmp_path / name}#axial:0"]


def test_pixels_become_square(tmp_path):
    voxels, rows = reorder("LPS", spacing=(1.0, 1.0, 5.0))
    path = save_nifti(tmp_path / "a.nii", voxels, rows)
    assert volume_slice(path, "axial", 0).shape == (24, 20)
    coronal = volume_slice(path, "coronal", 6)
    assert coronal.shape == (140, 20)
    assert coronal.dtype == np.float32
    np.testing.assert_allclose(coronal[2::5], SCAN[::-1, 6, ::-1].T, atol=1e-2)  # the middle of each slice
    assert volume_slice(path, "sagittal", 6).shape == (140, 24)


def test_nearly_square_pixels_stay(tmp_path):
    voxels, rows = reorder("RAS", spacing=(1.0, 1.0, 1.02))
    check_scan(save_nifti(tmp_path / "a.nii", voxels, rows))


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<u2", "<i4", "<f4", ">f4", "<f8"])
def test_dtypes(dtype, tmp_path):
    voxels = (SCAN % 200).astype(dtype)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii")
    got = volume_slice(tmp_path / "a.nii", "axial", 5)
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, voxels[::-1, ::-1, 5].T)


# Names.


def test_is_volume_goes_by_the_name():
    assert all(is_volume(n) for n in ("a.nii", "a.NII.gz", "d/a.mha", "a.mhd", "a.nrrd", "a.nhdr", "a.nii#axial:3"))
    assert not any(is_volume(n) for n in ("a.png", "nii", "a.nii.png", "a.gz", "a.nii/b.png", "a.dcm#3"))


def test_slice_member_splits_a_name():
    assert slice_member("d/a.nii.gz#coronal:80") == ("d/a.nii.gz", "coronal", 80)
    assert slice_member("a.mha#7") == ("a.mha", "axial", 7)
    assert slice_member("a.mha") == ("a.mha", "axial", None)


@pytest.mark.parametrize("part", ["frontal:3", "axial", "axial:-1", "axial:x", "axial:", ""])
def test_other_parts_are_refused(part):
    with pytest.raises(ImageError, match="a slice is named #axial:N, #coronal:N or #sagittal:N"):
        slice_member(f"a.nii.gz#{part}")


def test_slice_names_come_from_the_header_alone(tmp_path, monkeypatch):
    path = save_nifti(tmp_path / "a.nii.gz", *reorder("LPS"))
    monkeypatch.setattr(volumes, "_read_voxels", None)
    assert slice_names(path) == [f"{path}#axial:14"]
    assert slice_names(path, "middle", "sagittal") == [f"{path}#sagittal:10"]
    assert slice_names(path, "3", "coronal") == [f"{path}#coronal:3"]
    assert slice_names(path, "every:10") == [f"{path}#axial:{n}" for n in (5, 15, 25)]
    assert slice_names(path, "every:1") == [f"{path}#axial:{n}" for n in range(28)]
    assert slice_names(path, "every:100") == [f"{path}#axial:14"]
    assert volume_fault(path, "axial", 27) == ""


@pytest.mark.parametrize("slices", ["all", "every:0", "every:", "-1", "every:x", ""])
def test_slice_names_explains_its_option(slices, tmp_path):
    path = save_nifti(tmp_path / "a.nii", *reorder("LPS"))
    with pytest.raises(ConfigError, match="give middle, every:K"):
        slice_names(path, slices)


def test_number_beyond_the_volume(tmp_path):
    path = save_nifti(tmp_path / "a.nii", *reorder("LPS"))
    reason = "image missing: the volume has 28 axial slices, 0 to 27, and no 28"
    assert volume_fault(path, "axial", 28) == reason
    with pytest.raises(ImageError) as e:
        volume_slice(path, "axial", 28)
    assert e.value.why == reason
    with pytest.raises(ImageError):
        slice_names(path, "28")


# The memory of volumes.


def test_slices_in_order_read_a_file_once(tmp_path, monkeypatch):
    paths = [save_nifti(tmp_path / f"{name}.nii.gz", *reorder("LPS")) for name in "ab"]
    reads = []
    read = volumes._read_voxels
    monkeypatch.setattr(volumes, "_read_voxels", lambda layout: reads.append(layout.file) or read(layout))
    for number in range(28):
        for path in paths:
            volume_slice(path, "axial", number)
    assert len(reads) == 2
    assert len(volumes._cache) <= volumes.KEPT


def test_a_file_that_took_the_place_of_another_is_read(tmp_path):
    path = save_meta(tmp_path / "a.mhd", SCAN)
    first = volume_slice(path, "axial", 3)
    raw = tmp_path / "a.raw"
    raw.write_bytes((SCAN + 1).tobytes(order="F"))
    os.utime(raw, ns=(1, 1))
    np.testing.assert_array_equal(volume_slice(path, "axial", 3), first + 1)


# Hounsfield units.


def test_looks_like_hu():
    air, tissue = np.full(300, -1000), np.full(700, 40)
    assert looks_like_hu(np.concatenate([air, tissue]))
    assert looks_like_hu(np.concatenate([air, tissue]).astype(np.float32))
    assert looks_like_hu(np.concatenate([np.full(500, -3024), air, tissue]))
    assert not looks_like_hu(tissue)
    assert not looks_like_hu(np.concatenate([air + 1024, tissue]))
    assert not looks_like_hu(np.concatenate([air + 0.5, tissue]))
    assert not looks_like_hu(np.arange(-4096, 4096))
    assert not looks_like_hu(np.concatenate([tissue, [-201]]))
    assert not looks_like_hu(np.array([]))
    assert not looks_like_hu(np.full(9, np.nan))


def test_all_slices_of_a_ct_have_its_unit(tmp_path):
    "A slice without air is in Hounsfield units like its neighbours."
    ct = np.full(SHAPE, 40, np.int16)
    ct[..., 14:] = -1000
    assert volume_is_hu(save_nifti(tmp_path / "ct.nii", ct, np.eye(3)))
    assert not volume_is_hu(save_nifti(tmp_path / "mr.nii", ct + 1000, np.eye(3)))


# Damage.


def assert_refused(path, reason, header=True):
    "A volume is refused for a reason, by its header too where that is damaged."
    with pytest.raises(ImageError) as e:
        volume_slice(path)
    assert e.value.why.startswith(f"image {reason}")
    assert str(path.parent) not in e.value.why
    assert volume_fault(path) == (e.value.why if header else "")


def test_too_many_voxels_are_refused_before_anything_is_allocated(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "_read_voxels", None)
    header = nib.Nifti1Header()
    header.set_data_shape((32000, 32000, 32000))
    (tmp_path / "a.nii").write_bytes(header.binaryblock + b"\0" * 1000)
    assert_refused(tmp_path / "a.nii", "too large: 32000x32000x32000 voxels")
    header.set_data_shape((700, 700, 700))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(header.binaryblock + b"\0" * 1000))
    assert_refused(tmp_path / "b.nii.gz", "unreadable: truncated, 700x700x700 voxels are more than its file can hold")
    text = meta_header(SCAN).replace(b"20 24 28", b"99999 99999 99999")
    (tmp_path / "c.mha").write_bytes(text)
    assert_refused(tmp_path / "c.mha", "too large")
    (tmp_path / "d.nrrd").write_bytes(b"NRRD0004\ntype: short\ndimension: 3\nsizes: 9999 9999 9999\nencoding: raw\n\n")
    assert_refused(tmp_path / "d.nrrd", "too large")


def test_slices_that_are_too_large_once_their_pixels_are_square(tmp_path):
    rows = np.diag([1.0, 1.0, 900.0]) * 0.01
    voxels = np.zeros((4000, 20, 20), np.int16)
    path = save_nifti(tmp_path / "a.nii", voxels, rows)
    assert volume_fault(path, "coronal", 3).startswith("image too large: 4000x18000 pixels")
    assert volume_fault(path, "axial", 3) == ""


def test_too_small(tmp_path):
    path = save_nifti(tmp_path / "a.nii", SCAN[:, :10], np.eye(3))
    assert volume_fault(path, "axial", 3) == "image too small: 20x10 pixels"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "c.mha", "a.nrrd", "c.nrrd"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
def test_every_truncation_is_refused(name, share, tmp_path):
    path = tmp_path / name
    voxels = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    if "nii" in name:
        save_nifti(path, voxels, np.eye(3))
    elif "mha" in name:
        save_meta(path, voxels, compress=name == "c.mha")
    else:
        save_nrrd(path, voxels, np.eye(3), encoding="gzip" if name == "c.nrrd" else "raw")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageError, match="image unreadable"):
        volume_slice(path)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.nrrd"])
def test_compressed_files_with_one_wrong_byte_are_refused(name, tmp_path):
    path = tmp_path / name
    if name == "a.nii.gz":
        save_nifti(path, SCAN, np.eye(3))
    elif name == "a.mha":
        save_meta(path, SCAN, compress=True)
    else:
        save_nrrd(path, SCAN, np.eye(3))
    content = bytearray(path.read_bytes())
    content[-2 if name == "a.mha" else -6] ^= 0xFF  # of the checksum
    path.write_bytes(content)
    assert_refused(path, "unreadable: damaged", header=False)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", b"\x89PNG\r\n" + b"\0" * 1000])
def test_other_contents_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, "unreadable: not a")


def test_missing_files_and_folders(tmp_path):
    assert volume_fault(tmp_path / "a.nii") == "image missing"
    (tmp_path / "b.nii").mkdir()
    assert volume_fault(tmp_path / "b.nii") == "image unreadable: not a file"


def test_colours_and_complex_numbers_are_refused(tmp_path):
    rgb = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "a.nii")
    assert_refused(tmp_path / "a.nii", "unreadable: its voxels are colours or complex numbers")
    nib.save(nib.Nifti1Image(SCAN.astype(np.complex64), np.eye(4)), tmp_path / "b.nii")
    assert_refused(tmp_path / "b.nii", "unreadable: its voxels are colours or complex numbers")
    save_meta(tmp_path / "c.mha", SCAN, ElementNumberOfChannels=3)
    assert_refused(tmp_path / "c.mha", "unreadable: a voxel has 3 values")
    vectors = np.stack([SCAN] * 3)
    nrrd.write(str(tmp_path / "d.nrrd"), vectors, {"kinds": ["vector", "domain", "domain", "domain"]})
    assert_refused(tmp_path / "d.nrrd", "unreadable: a voxel has 3 values")
    nib.save(nib.Nifti1Image(np.stack([SCAN[..., None]] * 3, -1), np.eye(4)), tmp_path / "e.nii")
    assert_refused(tmp_path / "e.nii", "unreadable: a voxel has 3 values")


def test_directions_that_are_none_are_refused(tmp_path):
    for i, matrix in enumerate((np.zeros((3, 3)), np.full((3, 3), np.nan), np.ones((3, 3)), np.eye(3) * 1e30)):
        path = tmp_path / f"{i}.mha"
        text = meta_header(SCAN, TransformMatrix=" ".join(map(str, matrix.ravel())))
        path.write_bytes(text + SCAN.tobytes())
        assert_refused(path, "unreadable: its header has no valid voxel size and direction")


def test_pairs_of_files_are_refused(tmp_path):
    pair = nib.Nifti1Pair(SCAN, np.eye(4))
    nib.save(pair, tmp_path / "a.img")
    (tmp_path / "a.hdr").rename(tmp_path / "a.nii")
    assert_refused(tmp_path / "a.nii", "unreadable: its voxels are in a second file (.img)")


# Headers that name other files.


@pytest.fixture
def secret(tmp_path):
    "A file that no header of the folder `data` may open; and that folder."
    (tmp_path / "secret.raw").write_bytes(SCAN.tobytes())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.raw").symlink_to(tmp_path / "secret.raw")
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["../secret.raw", "ABSOLUTE", "link.raw", "x/../../secret.raw"])
@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nhdr", ".nrrd"])
def test_data_file_outside_of_the_folder_is_refused(name, suffix, secret):
    name = str(secret.parent / "secret.raw") if name == "ABSOLUTE" else name
    path = secret / f"a{suffix}"
    if suffix in (".mhd", ".mha"):
        path.write_bytes(meta_header(SCAN, data=name))
    else:
        header = "type: short\ndimension: 3\nsizes: 20 24 28\nencoding: raw\nendian: little"
        path.write_text(f"NRRD0004\n{header}\ndata file: {name}\n\n")
    assert_refused(path, "unreadable: its header names a data file outside of its folder")


@pytest.mark.parametrize("name", ["LIST", "slice%03d.raw 1 20 1", "gone.raw", "", "."])
def test_other_data_files_are_refused(name, tmp_path):
    (tmp_path / "a.mhd").write_bytes(meta_header(SCAN, data=name))
    reason = "its voxels are in several files" if "LIST" in name or "%" in name else "there is no data file"
    assert_refused(tmp_path / "a.mhd", f"unreadable: {reason}")


def test_damaged_headers_are_one_sentence(tmp_path):
    "Whatever a wrong byte makes of a header, the result is a slice or an `ImageError`."
    rng = np.random.default_rng(0)
    save_nifti(tmp_path / "a.nii", SCAN, np.eye(3))
    save_meta(tmp_path / "a.mha", SCAN, np.eye(3))
    save_nrrd(tmp_path / "a.nrrd", SCAN, np.eye(3), encoding="raw")
    for name in "a.nii", "a.mha", "a.nrrd":
        whole = (tmp_path / name).read_bytes()
        path = tmp_path / f"b{name[1:]}"
        refused = 0
        for i in range(150):
            content = bytearray(whole)
            at = rng.integers(0, 300)
            content[at : at + 4] = rng.integers(0, 256, 4).astype(np.uint8).tobytes()
            path.write_bytes(content)
            os.utime(path, ns=(i, i))
            try:
                assert volume_slice(path).ndim == 2
            except ImageError as e:
                refused += 1
                assert len(e.why) < 250
        assert refused > 10, name


def test_a_missing_library_is_named_with_its_command(tmp_path, monkeypatch):
    path = save_nrrd(tmp_path / "a.nrrd", SCAN, np.eye(3))

    def fail(path):
        raise ModuleNotFoundError("No module named 'nrrd'")

    monkeypatch.setattr(volume_headers, "_nrrd_header", fail)
    with pytest.raises(ImageError, match=r"no reader of volumes is installed, pip install -e '.\[volumes\]'"):
        read_layout(path)


def test_bzip2_of_many_equal_voxels_is_no_truncation(tmp_path):
    flat = np.zeros((200, 200, 200), np.int16)
    path = save_nrrd(tmp_path / "a.nrrd", flat, np.eye(3), encoding="bzip2")
    assert len(bz2.compress(flat.tobytes())) < flat.nbytes / 1100
    assert volume_fault(path) == ""
    assert volume_slice(path).max() == 0
