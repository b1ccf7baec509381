"""Where the public weights of feature networks are, and what their files must hash to.

Nothing is downloaded. A missing file is one line that says which one, from where, into which
folder; a file found in the folder is checked against its published hash before it is used.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from genjax.core.errors import UserError

_PUBLIC_DINO = "https://dl.fbaipublicfiles.com/dinov2"
_HUGGING_FACE = "https://huggingface.co/openai"
_TORCHVISION = "https://download.pytorch.org/models"
_HEADS = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1"


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """`name` is the file's name in the folder; `sha256` its hash or the first digits of it.

    "" where no published hash is known: then the file is not checked, and its hash stands in every
    report all the same, as the extractor's.
    """

    name: str
    url: str
    sha256: str = ""


@dataclasses.dataclass(frozen=True)
class Weights:
    """The files of one network, and the format that `genjax.weights` reads them in."""

    format: str
    files: tuple[WeightFile, ...]


def _dino(size: str, sha256: str) -> Weights:
    name = f"dinov2_vit{size}14_pretrain.pth"
    return Weights("dinov2", (WeightFile(name, f"{_PUBLIC_DINO}/{name[:13]}/{name}", sha256),))


def _clip(model: str, sha256: str = "") -> Weights:
    url = f"{_HUGGING_FACE}/{model}/resolve/main/pytorch_model.bin"
    return Weights("clip", (WeightFile(f"{model}.bin", url, sha256),))


def _lpips(net: str, backbone: str, sha256: str) -> Weights:
    heads = WeightFile(f"lpips_v0.1_{net}.pth", f"{_HEADS}/{net}.pth")
    return Weights("lpips", (WeightFile(backbone, f"{_TORCHVISION}/{backbone}", sha256), heads))


_INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
NETWORKS: Mapping[str, Weights] = {
    "inception": Weights(
        "fid-inception",
        (
            WeightFile(
                _INCEPTION,
                f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{_INCEPTION}",
                "6726825d",
            ),
        ),
    ),
    "dinov2:s": _dino("s", "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"),
    "dinov2:b": _dino("b", "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"),
    "dinov2:l": _dino("l", "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"),
    "dinov2:g": _dino("g", "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3"),
    "clip:b32": _clip(
        "clip-vit-base-patch32", "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"
    ),
    "clip:b16": _clip("clip-vit-base-patch16"),
    "clip:l14": _clip(
        "clip-vit-large-patch14", "f1a17cdbe0f36fec524f5cafb1c261ea3bbbc13e346e0f74fc9eb0460dedd0d3"
    ),
    "clip:l14-336": _clip(
        "clip-vit-large-patch14-336",
        "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801",
    ),
    "lpips:alex": _lpips("alex", "alexnet-owt-7be5be79.pth", "7be5be79"),
    "lpips:vgg": _lpips("vgg", "vgg16-397923af.pth", "397923af"),
    "lpips:squeeze": _lpips("squeeze", "squeezenet1_1-b8a52dc0.pth", "b8a52dc0"),
}
MERGES = WeightFile(
    "clip_merges.txt", f"{_HUGGING_FACE}/clip-vit-large-patch14/resolve/main/merges.txt"
)


def default_folder() -> Path:
    """Returns the user's cache folder for weights."""
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "genjax" / "weights"


def find(
    files: Sequence[WeightFile], name: str, given: Sequence[str | Path], folder: Path
) -> list[Path]:
    """Returns the paths of the network `name`'s files: those `given`, else those in the folder.

    Files that the user names are taken as they are. Raises `UserError` for a file that is missing,
    and for one in the folder that is not the published one.
    """
    if given:
        for path in given:
            if not Path(path).exists():
                raise UserError(f"--weights: {path} (for {name}) does not exist; check the path")
        return [Path(path) for path in given]
    found = []
    for file in files:
        path = folder / file.name
        if not path.is_file():
            raise UserError(
                f"--extractor {name}: needs {file.name}; download {file.url} into {folder} under "
                "that name, or give --weights FILE"
            )
        if file.sha256:
            check(path, file.sha256)
        found.append(path)
    return found


def check(path: Path, sha256: str) -> None:
    """Raises `UserError` unless the file's SHA-256 begins with these digits.

    A file that was checked is not read again while its size and time stay (a note beside it).
    """
    stat = path.stat()
    note, line = path.with_name(f"{path.name}.ok"), f"{sha256} {stat.st_size} {stat.st_mtime_ns}"
    if note.is_file() and note.read_text() == line:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise UserError(
            f"{path}: its SHA-256 begins with {found[: len(sha256)][:16]}, the published file's "
            f"with {sha256[:16]}; it is damaged or another file: download it again"
        )
    try:
        note.write_text(line)
    except OSError:
        return  # a folder that cannot be written is checked every time
