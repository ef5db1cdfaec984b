"""The demo's pictures: photographs of scikit-image, scikit-learn and a Debian package, and details."""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

_SKIMAGE = "scikit-image"
_SKLEARN = "scikit-learn"
_LOMIRI = "lomiri-wallpapers-16.04"
_NOTICES = {
    _SKIMAGE: "docstrings of skimage/data/_fetchers.py",
    _SKLEARN: "sklearn/datasets/images/README.txt",
    _LOMIRI: "usr/share/doc/lomiri-wallpapers-16.04/copyright",
}
_URLS = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-2.0": "https://creativecommons.org/licenses/by/2.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "public domain": "",
}


@dataclass(frozen=True, slots=True)
class Photograph:
    name: str
    package: str
    file: str
    title: str
    author: str
    license: str
    size: tuple[int, int] | None = None
    """Pixels to scale to; None: as it is."""
    form: str = "jpeg"
    """jpeg, png, or `as is`: the package's own bytes."""
    source: str = ""
    """Where the package's notice says it comes from."""

    @property
    def license_url(self) -> str:
        return _URLS[self.license]

    @property
    def notice(self) -> str:
        return _NOTICES[self.package]


_NASA = "https://flic.kr/p/r9qvLn"
_HUBBLE = "http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/"
_ROCKET = "https://www.flickr.com/photos/spacexphotos/16511594820/"
_RETINA = "https://commons.wikimedia.org/wiki/File:Fundus_photograph_of_normal_left_eye.jpg"
_GRASS = "https://www.deviantart.com/linolafett/art/Grass-01-434853879"
_CHINA = "https://www.flickr.com/photos/danielbuechele/6061409035/"
_DAHLIA = "https://www.flickr.com/photos/vultilion/6056698931/"

PHOTOGRAPHS = (
    Photograph("astronaut", _SKIMAGE, "astronaut.png", "Eileen Collins", "NASA", "public domain", source=_NASA),
    Photograph("camera", _SKIMAGE, "camera.png", "Camera", "Lav Varshney", "CC0-1.0"),
    Photograph("cat", _SKIMAGE, "chelsea.png", "Chelsea the cat", "Stefan van der Walt", "CC0-1.0"),
    Photograph("coffee", _SKIMAGE, "coffee.png", "Coffee cup", "Rachel Michetti", "CC0-1.0"),
    Photograph(
        "clock",
        _SKIMAGE,
        "clock_motion.png",
        "Motion blurred clock",
        "Stefan van der Walt",
        "public domain",
        form="as is",
    ),
    Photograph(
        "rocket",
        _SKIMAGE,
        "rocket.jpg",
        "Launch of DSCOVR on Falcon 9",
        "SpaceX",
        "public domain",
        form="as is",
        source=_ROCKET,
    ),
    Photograph(
        "retina",
        _SKIMAGE,
        "retina.jpg",
        "Fundus of a normal left eye",
        "Mikael Häggström",
        "CC0-1.0",
        (616, 616),
        source=_RETINA,
    ),
    Photograph(
        "hubble",
        _SKIMAGE,
        "hubble_deep_field.jpg",
        "Hubble eXtreme Deep Field",
        "NASA",
        "public domain",
        (640, 558),
        source=_HUBBLE,
    ),
    Photograph(
        "brick",
        _SKIMAGE,
        "brick.png",
        "Brick wall",
        "CC0Textures",
        "CC0-1.0",
        source="https://cc0textures.com/view.php?tex=Bricks25",
    ),
    Photograph("grass", _SKIMAGE, "grass.png", "Grass", "linolafett", "CC0-1.0", source=_GRASS),
    Photograph(
        "gravel",
        _SKIMAGE,
        "gravel.png",
        "Gravel",
        "CC0Textures",
        "CC0-1.0",
        source="https://cc0textures.com/view.php?tex=Gravel04",
    ),
    Photograph(
        "cell",
        _SKIMAGE,
        "cell.png",
        "Cell floating in saline",
        "Paul Müller and others",
        "CC0-1.0",
        form="as is",
    ),
    Photograph(
        "microaneurysms",
        _SKIMAGE,
        "microaneurysms.png",
        "Microaneurysms",
        "Andreas Maier",
        "CC0-1.0",
        form="as is",
    ),
    Photograph(
        "handwriting",
        _SKIMAGE,
        "text.png",
        "Corner",
        "not named",
        "public domain",
        form="as is",
        source="https://en.wikipedia.org/wiki/File:Corner.png",
    ),
    Photograph(
        "horse",
        _SKIMAGE,
        "horse.png",
        "Horse (a drawing)",
        "Andreas Preuss (marauder)",
        "CC0-1.0",
        form="png",
        source="http://openclipart.org/detail/158377/horse-by-marauder",
    ),
    Photograph(
        "china",
        _SKLEARN,
        "china.jpg",
        "china.jpg",
        "danielbuechele",
        "CC-BY-2.0",
        form="as is",
        source=_CHINA,
    ),
    Photograph("dahlia", _SKLEARN, "flower.jpg", "flower.jpg", "vultilion", "CC-BY-2.0", form="as is", source=_DAHLIA),
    Photograph(
        "fig",
        _LOMIRI,
        "Picture_0B_by_freespace.jpg",
        "Picture 0B",
        'Trevor "Freespace"',
        "CC-BY-4.0",
        (760, 514),
    ),
    Photograph(
        "brushes",
        _LOMIRI,
        "Picture_1A_by_freespace.jpg",
        "Picture 1A",
        'Trevor "Freespace"',
        "CC-BY-4.0",
        (704, 554),
    ),
    Photograph("wine", _LOMIRI, "Wine_by_Jakkub_Mede.jpg", "Wine", "Jakub Mede", "CC-BY-4.0", (600, 900)),
    Photograph(
        "aizkorri",
        _LOMIRI,
        "aitzgorri_by_Aitzol_Berasategi.jpg",
        "Aitzgorri",
        "Aitzol Berasategi",
        "CC-BY-4.0",
        (768, 511),
    ),
    Photograph(
        "dogs",
        _LOMIRI,
        "friends_by_Aitzol_Berasategi.jpg",
        "Friends",
        "Aitzol Berasategi",
        "CC-BY-4.0",
        (600, 901),
    ),
    Photograph(
        "stream",
        _LOMIRI,
        "life_by_Aitzol_Berasategi.jpg",
        "Life",
        "Aitzol Berasategi",
        "CC-BY-4.0",
        (768, 511),
    ),
    Photograph(
        "picos",
        _LOMIRI,
        "picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "Picos de Europa",
        "Aitzol Berasategi",
        "CC-BY-4.0",
        (1024, 768),
    ),
    Photograph(
        "dandelion",
        _LOMIRI,
        "seeding_by_Clements_Engelhardt.jpg",
        "Seeding",
        "Clemens Engelhardt",
        "CC0-1.0",
        (896, 504),
    ),
    Photograph(
        "sunset",
        _LOMIRI,
        "sunset_by_Aitzol_Berasategi.jpg",
        "Sunset",
        "Aitzol Berasategi",
        "CC-BY-4.0",
        (768, 512),
    ),
)

CROPS: dict[str, tuple[float, float, float, float]] = {
    "fig-flesh": (0.44, 0.34, 0.74, 0.78),
    "fig-concrete": (0, 0.5, 0.3, 1),
    "brushes-blue": (0, 0, 0.33, 0.5),
    "brushes-pink": (0.28, 0.2, 0.6, 0.8),
    "brushes-thin": (0.62, 0.25, 0.95, 1),
    "wine-table": (0.25, 0.1, 1, 0.55),
    "wine-drum": (0, 0.47, 0.8, 0.98),
    "aizkorri-summit": (0.3, 0.1, 0.9, 0.5),
    "aizkorri-spruce": (0.6, 0.3, 1, 0.8),
    "dogs-upper": (0.25, 0.18, 0.6, 0.48),
    "dogs-lower": (0.4, 0.42, 0.8, 0.68),
    "stream-cascades": (0.2, 0.3, 0.6, 1),
    "stream-boulders": (0.5, 0.38, 1, 1),
    "picos-path": (0, 0.55, 0.5, 1),
    "picos-snow": (0.35, 0.45, 1, 0.72),
    "picos-cloud": (0, 0.05, 0.5, 0.5),
    "dandelion-head": (0.1, 0.05, 0.5, 0.65),
    "dandelion-field": (0.45, 0.2, 1, 0.95),
    "sunset-table": (0.55, 0.6, 1, 1),
    "sunset-sun": (0.3, 0.3, 0.7, 0.68),
    "astronaut-patch": (0.24, 0.64, 0.44, 0.86),
    "astronaut-shuttle": (0.64, 0, 1, 0.6),
    "astronaut-helmet": (0.52, 0.64, 1, 1),
    "camera-buildings": (0.6, 0.2, 1, 0.5),
    "camera-device": (0.4, 0.22, 0.72, 0.66),
    "cat-eye": (0.26, 0.24, 0.5, 0.56),
    "cat-nose": (0.35, 0.6, 0.85, 1),
    "coffee-cup": (0.25, 0.02, 0.72, 0.55),
    "coffee-spoon": (0.5, 0.5, 0.8, 0.9),
    "rocket-top": (0.38, 0.25, 0.62, 0.75),
    "retina-disc": (0.02, 0.3, 0.35, 0.65),
    "retina-macula": (0.35, 0.35, 0.7, 0.68),
    "hubble-spiral": (0.05, 0.35, 0.35, 0.65),
    "hubble-star": (0.6, 0.45, 1, 0.85),
    "china-roof": (0.12, 0.05, 0.55, 0.45),
    "china-lake": (0.5, 0.4, 0.95, 0.8),
    "dahlia-centre": (0.34, 0.36, 0.62, 0.74),
}
"""Detail -> left, top, right, bottom as shares of the photograph, which the name begins with."""

CROP_SIDE = 448
"""Pixels of a detail's longer side at most."""


def render(photograph: Photograph, roots: dict[str, Path]) -> bytes:
    """The picture as the demo ships it, encoded."""
    path = _path(photograph, roots)
    if photograph.form == "as is":
        return path.read_bytes()
    image = _open(path)
    if photograph.size:
        image = image.resize(photograph.size, Image.Resampling.LANCZOS)
    return _encode(image, photograph.form)


def render_crop(name: str, roots: dict[str, Path]) -> bytes:
    """A detail, cut from the photograph at its full resolution, as JPEG."""
    of = name.split("-")[0]
    image = _open(_path(next(p for p in PHOTOGRAPHS if p.name == of), roots))
    left, top, right, bottom = CROPS[name]
    width, height = image.size
    image = image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
    scale = CROP_SIDE / max(image.size)
    if scale < 1:
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return _encode(image, "jpeg")


def extension(data: bytes) -> str:
    return "png" if data.startswith(b"\x89PNG") else "jpg"


def _path(photograph: Photograph, roots: dict[str, Path]) -> Path:
    if photograph.package == _LOMIRI:
        return roots[_LOMIRI] / "usr/share/backgrounds" / photograph.file
    module, folder = {_SKIMAGE: ("skimage", "data"), _SKLEARN: ("sklearn", "datasets/images")}[photograph.package]
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{photograph.package} is not installed: pip install scikit-image scikit-learn")
    return Path(spec.origin).parent / folder / photograph.file


def _open(path: Path) -> Image.Image:
    """Grey or RGB; what is transparent becomes white."""
    image = Image.open(path)
    if image.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("L")
    return image if image.mode == "L" else image.convert("RGB")


def _encode(image: Image.Image, form: str) -> bytes:
    data = io.BytesIO()
    if form == "png":
        image.save(data, "PNG", optimize=True)
    else:
        image.save(data, "JPEG", quality=84, optimize=True)
    return data.getvalue()
