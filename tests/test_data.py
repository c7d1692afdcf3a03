from __future__ import annotations

import bz2
import gzip
import hashlib
import pickle

import numpy as np
import pytest

from thalweg import data


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """One registered set, an empty cache, and a folder for the variable."""
    content = b"one\ntwo\n"
    dataset = data.Dataset(
        "tiny", "texts/tiny.txt", hashlib.sha256(content).hexdigest(), "two lines"
    )
    monkeypatch.setattr(data, "_BY_NAME", {"tiny": dataset})
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "shelf"))
    path = tmp_path / "shelf" / dataset.path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_a_set_is_found_in_the_folder_of_the_variable(shelf):
    assert data.fetch("tiny") == shelf


def test_a_changed_file_is_refused(shelf):
    shelf.write_bytes(b"one\nTWO\n")
    with pytest.raises(ValueError, match=r"data set 'tiny'.*has SHA-256"):
        data.fetch("tiny")


def test_a_missing_set_names_set_address_and_variable(shelf):
    shelf.unlink()
    with pytest.raises(data.MissingDataError, match=r"tiny.*no public address.*THALWEG_DATA"):
        data.fetch("tiny")
    assert not data.available("tiny")


def test_a_download_goes_to_the_cache_and_is_checked(shelf, tmp_path, monkeypatch):
    content = shelf.read_bytes()
    shelf.unlink()
    dataset = data.Dataset(
        "tiny", "texts/tiny.txt", hashlib.sha256(content).hexdigest(), "", "https://x.test/tiny.txt"
    )
    monkeypatch.setattr(data, "_BY_NAME", {"tiny": dataset})

    def retrieve(url, known_hash, fname, path, progressbar):
        assert (url, known_hash) == (dataset.url, f"sha256:{dataset.sha256}")
        path.mkdir(parents=True)
        (path / fname).write_bytes(content)

    monkeypatch.setattr("pooch.retrieve", retrieve)
    path = data.fetch("tiny")
    assert path.read_bytes() == content
    assert data.find("tiny") == path


def test_offline_the_error_names_what_is_missing(shelf, monkeypatch):
    shelf.unlink()
    dataset = data.Dataset("tiny", "texts/tiny.txt", "0" * 64, "", "https://x.test/tiny.txt")
    monkeypatch.setattr(data, "_BY_NAME", {"tiny": dataset})

    def retrieve(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("pooch.retrieve", retrieve)
    with pytest.raises(data.MissingDataError, match=r"https://x.test/tiny.txt.*THALWEG_DATA"):
        data.fetch("tiny")


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(ValueError, match="football-results"):
        data.fetch("footbal-results")


def test_names_and_paths_are_unique():
    sets = data.datasets()
    assert len({s.name for s in sets}) == len({s.path for s in sets}) == len(sets)


def test_the_error_survives_a_process_boundary():
    error = data.MissingDataError("football-results", "is not on this machine")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_text_is_unpacked_by_its_first_bytes(tmp_path, pack):
    path = tmp_path / "words"
    path.write_bytes(pack("größer\n".encode()))
    with data.open_text(path) as file:
        assert file.read() == "größer\n"


def test_idx_round_trip_and_truncation(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    header = b"\x00\x00\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape)
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(header + images.tobytes()))
    np.testing.assert_array_equal(data.read_idx(path), images)
    path.write_bytes(header + images.tobytes()[:-1])
    with pytest.raises(ValueError, match="should hold 24 bytes"):
        data.read_idx(path)
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ValueError, match="must be an IDX file"):
        data.read_idx(path)
