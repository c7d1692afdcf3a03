"""Data sets of others: found in a folder of yours, else in the cache, else downloaded and checked.

`fetch("football-results")` returns a path. A set is looked for in the folder that the variable
``THALWEG_DATA`` names, then in the user cache; where it has a public address it is downloaded into
the cache and its SHA-256 compared. Readers for the formats are beside it.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

VARIABLE = "THALWEG_DATA"


class MissingDataError(FileNotFoundError):
    """A data set is neither in the folder of ``THALWEG_DATA`` nor in the cache, nor to be had.

    Attributes
    ----------
    name : str
        Name of the set.
    command : str
        What a user can run to get it.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        dataset = dataset_of(name)
        self.command = f"thalweg data fetch {name}" if dataset.url else f"export {VARIABLE}=FOLDER"
        address = dataset.url or "no public address is known"
        super().__init__(
            f"data set {name!r} ({address}) {reason}; put it at "
            f"{dataset.path} in a folder and set {VARIABLE} to that folder"
        )

    def __reduce__(self) -> tuple[type[MissingDataError], tuple[str, str]]:
        return type(self), (self.name, self.reason)


@dataclass(frozen=True)
class Dataset:
    """A file of others that studies use.

    Attributes
    ----------
    name : str
        Name for `fetch`.
    path : str
        Where the file lies in the folder of ``THALWEG_DATA``.
    sha256 : str
        Checksum of that file.
    about : str
        One line: what it holds.
    url : str or None
        Public address; None where none is known.
    url_sha256 : str or None
        Checksum of what the address serves, where that is another form of the same file.
    """

    name: str
    path: str
    sha256: str
    about: str
    url: str | None = None
    url_sha256: str | None = None


_BAL = "https://grail.cs.washington.edu/projects/bal/data"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_MULTIOME = "Cells of the CITE-seq time course, {} principal components, day {}"
_BINDING = "Binding of the factor {} to all DNA 8-mers (E-score, median, Z-score)"

_DATASETS = (
    Dataset(
        "bal-ladybug-49",
        "bal/problem-49-7776-pre.txt.bz2",
        "1ccb15701a92a8ad909d30860a0108cd3f2d7916c1ecf2851e59a6198b9de6b0",
        "Bundle adjustment in the large: 49 cameras, 7776 points",
        f"{_BAL}/ladybug/problem-49-7776-pre.txt.bz2",
    ),
    Dataset(
        "bal-dubrovnik-16",
        "bal/problem-16-22106-pre.txt.bz2",
        "0d695947deb3fc3026e5434a904151b18fe8e60c0176e430dcb5e7a3da039ca5",
        "Bundle adjustment in the large: 16 cameras, 22106 points",
        f"{_BAL}/dubrovnik/problem-16-22106-pre.txt.bz2",
    ),
    Dataset(
        "football-results",
        "football/international_results.csv.gz",
        "958d44e6bf7fc44739ded68c4c56069cda68bcb4cb89a7b03558db8c998ed6b9",
        "Men's international football results since 1872",
    ),
    Dataset(
        "tinyshakespeare",
        "text/tinyshakespeare.txt.gz",
        "bed00f18e91cda6838950656f0a95e07e0f4dbe8649a4b959f7602a7e53fbc6e",
        "One megabyte of Shakespeare's plays",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    Dataset(
        "mnist-t10k-images",
        "mnist/t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "MNIST test images, 10000 x 28 x 28",
        f"{_MNIST}/t10k-images-idx3-ubyte.gz",
    ),
    Dataset(
        "mnist-t10k-labels",
        "mnist/t10k-labels-idx1-ubyte.gz",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "MNIST test labels, 10000",
        f"{_MNIST}/t10k-labels-idx1-ubyte.gz",
    ),
    *(
        Dataset(
            f"multiome-pca{components}-day{day}",
            f"msci/full_cite_pcas_{components}_day_{day}.npy",
            sha256,
            _MULTIOME.format(components, day),
        )
        for components, day, sha256 in (
            (50, 2, "ba7cc587e6df22382099e8592939e188b1fe32681a71640473058719f56f1bf4"),
            (50, 3, "3b427bff70dfae37e3c4793d3ae9b3493c96a88cb507518e41387b7eeca62f94"),
            (50, 4, "db70a163f9ae8ec7ae26ea41a330f0de814facc97d1928f14e00cc3fa48a741b"),
            (50, 7, "b8409dad032f03afba90ffd7762e49a6413b0b2ef8bfc3304a46ea143536bc07"),
            (100, 2, "85000b25eb6b7ae5c7daf7ad17e995741e8a76f25771d5716ccb539d3d22ad55"),
            (100, 3, "5a4fdcbb076b2f25b2e823b87d92deccacf29d702f3ac32835490e7db10b59c8"),
            (100, 4, "04cd3ba804006ee72413aab33c90b6d977eb3a4e4a38127445a46625436fe524"),
            (100, 7, "4a422acef3226958035c72e87ca7d1644d86f4efbb29be2c0bea67fc1e93b24e"),
        )
    ),
    *(
        Dataset(
            f"tf-binding-{factor.lower()}",
            f"tfbind8/{factor}_REF_R1_8mers.txt.gz",
            sha256,
            _BINDING.format(factor),
        )
        for factor, sha256 in (
            ("PAX4", "6dc32bcbdf9cd3628c1e289635194b193863eed6800c40a013d6b0e35dd40e1d"),
            ("POU3F4", "3a2f04581c86d877037eac2e3acd6eac4a6a9be60708c7c1673f37cec3a28a0e"),
            ("SIX6", "c2f6465cb657d46e1f8262db4bc24c47028c5a5ef413a0fb4101e94f70a90b57"),
        )
    ),
)
_BY_NAME = {dataset.name: dataset for dataset in _DATASETS}


def datasets() -> tuple[Dataset, ...]:
    """Return every registered data set.

    Examples
    --------
    >>> len(datasets())
    17
    """
    return _DATASETS


def dataset_of(name: str) -> Dataset:
    """Return the data set called `name`; ValueError with the nearest names if there is none."""
    try:
        return _BY_NAME[name]
    except (KeyError, TypeError):
        from difflib import get_close_matches

        near = get_close_matches(str(name), _BY_NAME, n=3) or sorted(_BY_NAME)
        raise ValueError(
            f"name must be a registered data set, got {name!r}; nearest: {', '.join(near)}"
        ) from None


def find(name: str) -> Path | None:
    """Return where the set lies on this machine, its checksum confirmed, or None.

    Raises
    ------
    ValueError
        If the name is unknown, or a file is there whose SHA-256 is not the registered one.
    """
    dataset = dataset_of(name)
    folder = os.environ.get(VARIABLE)
    if folder:
        for path, sha256 in (
            (Path(folder, dataset.path), dataset.sha256),
            (Path(folder, Path(dataset.path).with_suffix("")), dataset.url_sha256),
        ):
            if sha256 is not None and path.is_file():
                return _checked(path, sha256, name)
    cached = _cache_path(dataset)
    if cached.is_file():
        return _checked(cached, dataset.url_sha256 or dataset.sha256, name)
    return None


def available(name: str) -> bool:
    """Whether `fetch` would find the set without a download."""
    return find(name) is not None


def fetch(name: str, *, download: bool = True, progressbar: bool = False) -> Path:
    """Return a path to the set, downloading it into the user cache where needed.

    Parameters
    ----------
    name : str
        A name of `datasets`.
    download : bool, default True
        Whether to download a set that is not on this machine.
    progressbar : bool, default False
        Whether pooch shows a progress bar (needs tqdm).

    Returns
    -------
    pathlib.Path
        The file, its SHA-256 checked.

    Raises
    ------
    ValueError
        If the name is unknown or a file's checksum is wrong.
    MissingDataError
        If the set is not here and cannot be downloaded; it names set, address and variable.
    """
    found = find(name)
    if found is not None:
        return found
    dataset = dataset_of(name)
    if dataset.url is None:
        raise MissingDataError(name, "is not on this machine")
    if not download:
        raise MissingDataError(name, "is not on this machine and no download was asked for")
    import pooch
    import requests

    target = _cache_path(dataset)
    try:
        pooch.retrieve(
            dataset.url,
            known_hash=f"sha256:{dataset.url_sha256 or dataset.sha256}",
            fname=target.name,
            path=target.parent,
            progressbar=progressbar,
        )
    except (OSError, requests.RequestException) as error:
        raise MissingDataError(name, f"could not be downloaded ({type(error).__name__})") from error
    return target


def open_binary(path: str | Path) -> IO[bytes]:
    """Open a file for reading, unpacking gzip and bzip2, which are known by their first bytes."""
    with open(path, "rb") as file:
        head = file.read(3)
    if head[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if head == b"BZh":
        return bz2.open(path, "rb")
    return open(path, "rb")


def open_text(path: str | Path) -> io.TextIOWrapper:
    """Open a UTF-8 text file for reading, unpacking gzip and bzip2."""
    return io.TextIOWrapper(open_binary(path), encoding="utf-8")


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes (the MNIST format), packed or not.

    Raises
    ------
    ValueError
        If the header is not one of unsigned bytes or the length does not match it.
    """
    with open_binary(path) as file:
        head = file.read(4)
        if len(head) != 4 or head[:3] != b"\x00\x00\x08" or not 1 <= head[3] <= 8:
            raise ValueError(f"path must be an IDX file of unsigned bytes, got {path}")
        sizes = file.read(4 * head[3])
        if len(sizes) != 4 * head[3]:
            raise ValueError(f"{path} ends inside its header")
        shape = struct.unpack(f">{head[3]}I", sizes)
        expected = int(np.prod(shape, dtype=np.int64))
        body = file.read(expected + 1)
    if len(body) != expected:
        raise ValueError(f"{path} should hold {expected} bytes after its header")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def cache_folder() -> Path:
    """Return the folder into which downloads go."""
    import pooch

    return Path(pooch.os_cache("thalweg"))


def _cache_path(dataset: Dataset) -> Path:
    name = Path(dataset.url or dataset.path).name
    return cache_folder() / f"{dataset.name}-{name}"


def _checked(path: Path, sha256: str, name: str) -> Path:
    stat = path.stat()
    found = _sha256(path, stat.st_size, stat.st_mtime_ns)
    if found != sha256:
        raise ValueError(
            f"data set {name!r}: {path} has SHA-256 {found}, expected {sha256}; "
            "remove or replace it"
        )
    return path


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
