"""Which files are found, and that a file is what its checksum says."""

import hashlib

import pytest

from klinecast.importing import ImportFormatError, find_files, read_klines, verify_checksum


def test_directories_are_searched_and_other_files_left_out(tmp_path):
    for name in ("b/2.zip", "b/1.CSV", "b/c/3.csv.gz", "b/4.parquet", "b/readme.txt", "b/2.zip.CHECKSUM", "x.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([tmp_path / "x.csv", tmp_path / "b", tmp_path / "x.csv"])
    assert [one.name for one in found.files] == ["x.csv", "1.CSV", "2.zip", "4.parquet", "3.csv.gz"]
    assert [one.name for one in found.skipped] == ["readme.txt"]


def test_a_directory_without_klines_is_an_error(tmp_path):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(ImportFormatError, match="holds no file to import"):
        find_files([tmp_path])


def test_checksums_that_a_pattern_named_are_not_files_to_import(tmp_path):
    path, beside = tmp_path / "k.zip", tmp_path / "k.zip.CHECKSUM"
    assert find_files([path, beside]).files == (path,)
    with pytest.raises(ImportFormatError, match="is a checksum, not a file to import"):
        find_files([beside])


def test_checksums(tmp_path):
    path, beside = tmp_path / "k.zip", tmp_path / "k.zip.CHECKSUM"
    path.write_bytes(b"klines")
    assert verify_checksum(path) is False
    beside.write_text(f"{hashlib.sha256(b'klines').hexdigest()}  k.zip\n")
    assert verify_checksum(path) is True
    beside.write_text(f"{'0' * 64}  k.zip\n")
    with pytest.raises(ImportFormatError, match=r"^k.zip: has the SHA-256 [0-9a-f]{64}, its .CHECKSUM expects 0*"):
        verify_checksum(path)
    for text in ("", "abc  k.zip", f"{'0' * 64}  other.zip"):
        beside.write_text(text)
        with pytest.raises(ImportFormatError, match=r"k.zip.CHECKSUM: must hold '<sha256>  k.zip' and"):
            verify_checksum(path)


def test_what_cannot_be_read_is_a_refusal(tmp_path):
    path = tmp_path / "k.csv"
    path.symlink_to(tmp_path / "gone.csv")
    assert find_files([tmp_path]).files == (path,)
    with pytest.raises(ImportFormatError, match=r"k.csv: cannot be read \(No such file"):
        list(read_klines(path))
    (tmp_path / "k.csv.CHECKSUM").touch()
    with pytest.raises(ImportFormatError, match=r"k.csv: cannot be compared with its .CHECKSUM \(No such file"):
        verify_checksum(path)
