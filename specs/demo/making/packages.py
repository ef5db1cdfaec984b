"""The Debian packages that the demo's text, fonts and some of its photographs come from, pinned by digest."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Package:
    name: str
    version: str
    sha256: str
    """Of the .deb file."""


_PINS = """\
fonts-arphic-uming 0.2.20080216.2-11 2676b21b90df94f23418610291b71b43720c95cdccb420b97ab56edfd3ce4cf5
fonts-arphic-ukai 0.2.20080216.2-5 b9db73184895b067f7911f9adbf3b137df99c2d4ec5425b4ad779a9834b7110b
fonts-dejavu-core 2.37-6 8892669e51aab4dc56682c8e39d8ddb7d70fad83c369344e1e240bf3ca22bb76
fonts-ebgaramond 0.016+git20210310.42d4f9f2-1 2780e32df19b909823425b3e21c2f2f2a1717bbdd96f33fc59a252a308903fa2
fonts-ipafont-gothic 00303-23 5f8e0270654fec6577fffa96015067352440065c0b49bbc8b076745a6b4bf3d3
fonts-ipafont-mincho 00303-23 6a81c96987d37d48c4e09beb55c06396d1f385f46af86de7c1bd53a82a683c45
fonts-liberation2 2.1.5-1 35ffaa54f117e633e89a5da89af235a073b34dbe582726fbf6989568f7fd9bda
fonts-linuxlibertine 5.3.0-6 5c77471e910189b3e4e2eda2b1c5f549ddcaf4de8f9640b97773643970d29087
fonts-wqy-zenhei 0.9.45-8 cfed2c29164ff2f133e40ed2046610b172b8618d174840936ac4ec9b6fd668e7
libreoffice-help-de 4:7.4.7-1+deb12u14 00490b63c509ac96f7f212d6a6e40452d3e0d1f97ccf4b824dd5ec4c01e8277f
libreoffice-help-en-us 4:7.4.7-1+deb12u14 8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712
libreoffice-help-es 4:7.4.7-1+deb12u14 9128a84d83d92c8b1c618d90469d16affddb7d1290b09d42a0c5109cb16f0480
libreoffice-help-fr 4:7.4.7-1+deb12u14 c796530d3e95af1ea4d054076682efc8aad2b569ae9513f3d4a776b2df3fd206
libreoffice-help-ja 4:7.4.7-1+deb12u14 7799ace9bfe0845771ed2499913e7f7e521318cf3727c007672e3b020f8eb7b9
libreoffice-help-ru 4:7.4.7-1+deb12u14 5a2f75d5b0dfcf660275070647af528a81be28b5d3e9c3ec2d419ef5518db7a2
libreoffice-help-zh-cn 4:7.4.7-1+deb12u14 db867cdece4c2f9c7eebe65e519c6cf386fdcf49d6e061db3dffec893b3e1dee
lomiri-wallpapers-16.04 20.04.0-2 a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab
postgresql-doc-15 15.20-0+deb12u1 4c44bf2c599f208b3f46454a6cf7a72e25ec46ff74d37b59dd31ad76b00eebb7
python3.11-doc 3.11.2-6+deb12u9 5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be
"""
PACKAGES = tuple(Package(*line.split()) for line in _PINS.splitlines())


def unpack(folder: Path) -> dict[str, Path]:
    """Where each package is unpacked under `folder`; what is not there is fetched by `apt-get download`.

    Exits with a message when a package's digest is not the pinned one: other bytes make another demo.
    """
    folder.mkdir(parents=True, exist_ok=True)
    roots = {}
    for package in PACKAGES:
        deb = _find(folder, package)
        if deb is None:
            subprocess.run(["apt-get", "download", f"{package.name}={package.version}"], cwd=folder, check=True)
            deb = _find(folder, package)
        if deb is None or hashlib.sha256(deb.read_bytes()).hexdigest() != package.sha256:
            raise SystemExit(
                f"{package.name}: not version {package.version} as pinned in {Path(__file__).name}; "
                f"put that .deb into {folder} (Debian keeps every version in its snapshot archive)"
            )
        root = folder / "unpacked" / package.name
        if not root.exists():
            root.mkdir(parents=True)
            subprocess.run(["dpkg-deb", "-x", str(deb), str(root)], check=True)
        roots[package.name] = root
    return roots


def _find(folder: Path, package: Package) -> Path | None:
    version = package.version.replace(":", "%3a")
    return next(iter(sorted(folder.glob(f"{package.name}_{version}_*.deb"))), None)
