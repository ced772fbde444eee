"""The Kodak Lossless True Color Image Suite: 24 images, pinned by checksum."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from pathlib import Path

from lic import atomic_io
from lic.data.cache import kept_in
from lic.data.images import ImageError
from lic.files import one_line

#: Where to download the images; Eastman Kodak released them for unrestricted use.
ADDRESS = "http://r0k.us/graphics/kodak/kodak/"

SHA256 = {
    "kodim01.png": "a56e27cbf5f843c048b6af1d6e090760e9c92fadba88b7dee0205918a37523bd",
    "kodim02.png": "4f4b74a79237e311d72cad958237b5f7088d8bce1c82305ebefe1a70e3022dfd",
    "kodim03.png": "e25ca1ff2f0c0cb5fdfd5f9b0a0bb21ac4c3de3c84a67f35b09a85d3306249db",
    "kodim04.png": "e3b946107c5d3441c022f678d0c3caf1e224d81b1604ba840a4f88e562de61aa",
    "kodim05.png": "10349e963c5c813d327852f82c1795fa4148d69fedffc4c589bee458e3ac3d53",
    "kodim06.png": "363510303b715d4cbc384e1ce227e466b613a09e1b71ae985882bf8e7fbd9b18",
    "kodim07.png": "b77d3f006f42414bb242222e0482e750c0fb9e5ee8d4bed2f6f11c5605fe54a4",
    "kodim08.png": "ba23983c76b4832ee0e8af0592664756841a16779acd69f792e268fb6d13d6e7",
    "kodim09.png": "6a4361c2fc194feb4edaa9f9a4a0620fb9943e460ac7fdf037fb0f6dd6607a7d",
    "kodim10.png": "9dfb70f5867c29ff9ed6313683f19b3d867849e40fbc0c4c54a4a89df341cf23",
    "kodim11.png": "7936814b58b5387fce2e4e2488b4ec830dadd95fa9520f358ddb30990b50f2b6",
    "kodim12.png": "d78c37c2f04f23761ed2367dd77e2db584ddd4c3950833fecf89f199a8126980",
    "kodim13.png": "bc34a3ce58dea09dce1704c997171602de90cb34d0c8503a988b77f473d39b08",
    "kodim14.png": "55a94550ff18f3246c4074fd32b77b0c74447c26b6ad274d564d999c0450ba6e",
    "kodim15.png": "7538cbb80cb9103606c48b806eae57d56c885c7f90b9b3be70a41160f9cbb683",
    "kodim16.png": "a89c7268ccd4718ba424a99fc4643c572cf692ca6eae887185ceb4e9f11d2e54",
    "kodim17.png": "37afcc89fbdcb76d9518e04b2fc011027e2f4cd14b3b2f83cefd721641a47c5b",
    "kodim18.png": "1a9258c365988961d87a0598725b609139c303ad48a5aad6c503c3b1a87849aa",
    "kodim19.png": "b7450b264b1b0a411390d8931b112c27905a992520fc90569dc4b920aa32bbdc",
    "kodim20.png": "3b46c71e3b92a563820ba32936be8330c586c41f938efd94be938386aae4328a",
    "kodim21.png": "ac958597c82073f6bb65129c68f72b651db5b9efd82e11547d07350214bc268b",
    "kodim22.png": "1cee58eb1f2d9c7ebb254d208a03c783ce6cf2c4d8c2cf45e235dd23b4ce1b29",
    "kodim23.png": "e3111a2fd4da24af15d6459ef9eacfe54106b38e27b4a21821b75c3f5d2d5baf",
    "kodim24.png": "1071c68372cc5a01435c2c225a5cf7d4bb803846ec08bb6b3d6721b156d7cb96",
}


def check_kodak(folder: Path) -> list[Path]:
    """The 24 files of `folder`, in order. Raises ImageError if the folder or a file is missing, or if a file
    is not the published one."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ImageError(
            f"the Kodak folder {folder} {what}; give another, or omit --kodak to download the images"
        )
    files = [folder / name for name in SHA256]
    for path in files:
        if not path.is_file():
            raise ImageError(f"{folder} is not the Kodak set: {path.name} is missing")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ImageError(f"{path} cannot be read ({error.strerror})") from error
        if hashlib.sha256(content).hexdigest() != SHA256[path.name]:
            raise ImageError(
                f"{path} is not the original Kodak file (its checksum differs); "
                "use the published PNG files, or omit --kodak to download them"
            )
    return files


def fetch_kodak(cache: Path, timeout: float = 10.0) -> Path:
    """The folder with the 24 files, downloaded on first use. Raises ImageError without a network, or if they
    cannot be written."""
    folder = cache / "kodak"
    with kept_in(folder):
        for name, digest in SHA256.items():
            path = folder / name
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
                continue
            atomic_io.write(path, _fetch(name, timeout))
    return folder


def _fetch(name: str, timeout: float) -> bytes:
    """Download a file and check it. Raises ImageError."""
    try:
        with urllib.request.urlopen(ADDRESS + name, timeout=timeout) as answer:
            content: bytes = answer.read(4_000_000)
    except (OSError, http.client.HTTPException) as error:
        raise ImageError(f"cannot download Kodak from {ADDRESS} ({one_line(error)})") from error
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise ImageError(f"{ADDRESS}{name} is not the pinned file (its checksum differs)")
    return content
