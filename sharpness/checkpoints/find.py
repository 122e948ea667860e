"""Search for checkpoints below a path, by the first bytes of files rather than by their suffixes."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from sharpness.checkpoints.families import FAMILIES
from sharpness.checkpoints.safety import LIMIT
from sharpness.checkpoints.shards import index_of
from sharpness.checkpoints.zoo import FOLDER, from_zoo
from sharpness.errors import UserError, shown
from sharpness.models.hubs import hub_of
from sharpness.untrusted.refused import Refused
from sharpness.untrusted.regular_files import open_regular

#: The file of a finished run of ours, and the folders in which families keep theirs.
RESULT = "last.pt"
FOLDERS = ("", "ckps", "checkpoint")

#: Usual endings of checkpoints: what is wrong with such a file is said when it is read.
ENDINGS = (".pt", ".pth", ".th", ".tar", ".ckpt", ".safetensors")

#: What a run of ours keeps beside its result.
COMPANIONS, INSIDE = ("state.pt", "run.json", "history.csv"), ("snapshots", "probes")

#: What trainers of Hugging Face keep beside a model.
TRAINERS = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth", "training_args.bin")

#: Bytes that decide what a file is, and names in a line.
HEAD, SHOWN = 512, 4

_TORCH_PICKLE = b"l\xfc\x9cF\xf9 j\xa8P\x19."
_NUMBERS = re.compile(r"[-_.=]?(epoch|ep|step|iter)?[-_=]?\d+[-_]?|epoch|step|iter")
logger = logging.getLogger("sharpness")


def usual_files() -> list[str]:
    """Names of files that stand for their folder: our own, then each family's best weights, then the latest ones.

    >>> usual_files()[0]
    'last.pt'
    """
    written = [family.usual_files for _, family in FAMILIES.working() if family.usual_files]
    ranks = range(max(map(len, written)))
    return [RESULT, *dict.fromkeys(names[rank] for rank in ranks for names in written if rank < len(names))]


def file_of(path: Path) -> Path:
    """The file that a path is, or that stands for a folder or for a model of the zoo.

    Raises:
        UserError: there is none.
    """
    path = from_zoo(path)
    try:
        if path.is_dir():
            places = (path / inner / name for inner in FOLDERS for name in usual_files())
            path = next((place for place in places if place.is_file()), path / RESULT)
        there = path.is_file()
    except OSError as error:
        raise UserError(f"no checkpoint at {shown(str(path))}...: {error.strerror}") from None
    if not there:
        raise UserError(f"no checkpoint at {path}: give the path of a file, or a folder with a {RESULT} in it")
    return path


def find_checkpoints(path: str | Path) -> list[Path]:
    """The checkpoints that a path stands for: a file, a run's folder, all below a folder, or a library's network.

    A file counts by its content: what ``torch.save`` or safetensors wrote, whatever it is called; or by one of
    :data:`ENDINGS`. A file of a usual name stands for its run: other usual ones beside it and those of single epochs do
    not count. Hidden files and folders do not either. Links are followed, and what can be reached in several ways is
    there once, by its own path rather than by a link beside it. What is passed over is logged, a line for each reason.

    Raises:
        UserError: there is none.
    """
    if hub_of(path) is not None:
        return [Path(path)]
    path = from_zoo(path)
    if not path.is_dir():
        return [file_of(path)]
    search = _Search(set(path.resolve().parents))
    found = search.below(path)
    if not found:
        seen = f" (passed over: {_some(search.others + search.pickles)})" if search.others or search.pickles else ""
        raise UserError(
            f"no checkpoint in {path} nor below it{seen}: give a folder with files that torch.save or safetensors wrote"
        )
    search.tell(path)
    return found


@dataclass
class _Search:
    """A walk through folders.

    Attributes:
        seen: real paths, which grow.
        others: files of another content.
        pickles: files that ``pickle`` wrote, and torch did not.
        unread: files that cannot be opened, with the reason.
        beside: files of the same run as one of a usual name.
    """

    seen: set[Path]
    others: list[Path] = field(default_factory=list)
    pickles: list[Path] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    beside: list[Path] = field(default_factory=list)

    def below(self, folder: Path) -> list[Path]:
        """Checkpoints in a folder and below it."""
        if not self._first(folder):
            return []
        try:
            entries = sorted(folder.iterdir(), key=lambda entry: (entry.is_symlink(), entry))
        except OSError as error:
            self.unread.append(f"{shown(str(folder), 160)} ({error.strerror})")
            return []
        usual = next((name for name in usual_files() if (folder / name).is_file()), None)
        found: list[Path] = []
        for entry in entries:
            if entry.name.startswith(".") or (usual == RESULT and entry.name in INSIDE):
                continue
            if entry.is_dir():
                found += self.below(entry)
            elif entry.name in COMPANIONS:
                continue
            elif (usual not in (None, entry.name) and _of_one_run(entry.name)) or index_of(entry) is not None:
                self.beside.append(entry)
            elif self._is_checkpoint(entry) and self._first(entry):
                found.append(entry)
        return found

    def _first(self, path: Path) -> bool:
        real = path.resolve()
        new = real not in self.seen
        self.seen.add(real)
        return new

    def _is_checkpoint(self, path: Path) -> bool:
        if path.name.endswith(ENDINGS) or path.name in usual_files():
            return True
        try:
            file, size = open_regular(path, LIMIT)
            with file:
                start = file.read(HEAD)
        except (OSError, Refused) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it {error}"
            self.unread.append(f"{shown(str(path), 160)} ({reason})")
            return False
        if _begins_like_one(start, size):
            return True
        (self.pickles if start[:1] == b"\x80" and path.suffix in (".pkl", ".pickle") else self.others).append(path)
        return False

    def tell(self, path: Path) -> None:
        """Log what was passed over, a line for each reason; as a warning if it may have held weights."""
        if self.pickles:
            logger.warning(
                "passed over in %s, pickles that torch.save did not write: %s: save them again with torch.save",
                path, _some(self.pickles),
            )  # fmt: skip
        if self.unread:
            logger.warning("passed over in %s, unreadable: %s", path, _some(self.unread))
        if self.beside:
            logger.info("passed over in %s, of runs that another file stands for: %s", path, _some(self.beside))
        if self.others and path != FOLDER:  # what stands beside the models of the zoo is the package's own
            logger.info("left out in %s, no checkpoints by their content: %s", path, _some(self.others))


def _begins_like_one(start: bytes, size: int) -> bool:
    """True if a file of ``size`` bytes begins like an archive or pickle of ``torch.save``, or like safetensors."""
    if start[:4] == b"PK\x03\x04":
        name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
        return name.endswith((b"/data.pkl", b"/constants.pkl", b"/version", b"/byteorder")) or b"/data/" in name
    announced = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and announced <= size - 8:
        return True
    return start[:1] == b"\x80" and _TORCH_PICKLE in start[:40]


def _of_one_run(name: str) -> bool:
    """True if a file beside one of a usual name is of the same run: another usual name, of an epoch, or of
    a state of training.

    >>> [_of_one_run(name) for name in ("12_ckpt.pth.tar", "epoch_3.pth", "model-20.pt", "resnet32.t7")]
    [True, True, True, False]
    """
    plain, usual = _NUMBERS.sub("", name), (*usual_files(), *TRAINERS)
    stem = plain.partition(".")[0]
    return name in usual or plain in usual or (plain != name and stem in ("", "ckpt", "checkpoint", "model"))


def _some(found: list[Path] | list[str]) -> str:
    """The number of files and the first few of them."""
    names = [x if isinstance(x, str) else shown(x.name) for x in found]
    return f"{len(names)} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
