"""``sharpness data``: check, prepare and make data sets of image files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sharpness.cli.grouped import grouped
from sharpness.cli.options import AS_JSON, OneExample, several
from sharpness.cli.output import require_folder, say
from sharpness.errors import UserError

if TYPE_CHECKING:
    from sharpness.data.file_source import Transform
    from sharpness.data.listed_data import Lists

#: Data sets that are lists of image files.
LISTED = ("imagenet-lt", "places-lt", "inat18", "glyphs-lt", "list")


@click.group()
def data() -> None:
    """Check, prepare and make data sets of image files.

    Example: sharpness data check --data imagenet-lt --data-root /data/imagenet --lists lists
    """


_options = several(
    click.option("--data", "name", type=click.Choice(LISTED), default="list", help="Data set that the lists describe."),
    click.option("--data-root", required=True, type=click.Path(), help="Root folder of the paths in the lists."),
    click.option("--lists", type=click.Path(), help="Folder of the image lists. [default: the data root]"),
    click.option("--size", type=int, help="Side of the central square crop. [default: 224 of 256]"),
    click.option("--resize", type=int, help="Length of the shorter side before the crop. [default: --size]"),
    click.option(
        "--policy",
        type=click.Choice(["stop", "skip"]),
        default="stop",
        help="What to do with an unreadable image: stop, or skip it and record it.",
    ),
    click.option("--workers", type=int, default=0, help="Number of processes that decode images."),
)


@dataclass(frozen=True)
class Listed:
    """Image lists and the settings for reading their files; the values of ``_options``."""

    name: str
    data_root: str
    lists: str | None
    size: int | None
    resize: int | None
    policy: str
    workers: int

    @property
    def root(self) -> Path:
        """The root folder of the paths in the lists."""
        return Path(self.data_root).expanduser()

    def find(self) -> Lists:
        """Read the lists."""
        from sharpness.data.listed_data import find_lists

        return find_lists(self.name, self.data_root, self.lists)

    def transform(self) -> Transform:
        """Return the resize and crop; by default 224 of 256 pixels."""
        from sharpness.data.file_source import Transform
        from sharpness.data.listed_data import USUAL

        if self.size is None and self.resize is not None:
            raise UserError(f"--resize {self.resize}: give --size, the side after the crop, too")
        return USUAL if self.size is None else Transform(self.size, self.resize)


@data.command(cls=OneExample)
@_options
@click.option("--decode/--no-decode", default=True, help="Decode every image, or only check that its file exists.")
@AS_JSON
@grouped(listed=Listed)
def check(listed: Listed, decode: bool, as_json: bool) -> None:
    """Check image lists against the files on disk: counts, groups, origin of the lists, missing and damaged files.

    Counts and groups are printed first. Then every image that is missing or cannot be decoded is listed with its line
    number. The exit code is 2 if there is one, unless --policy skip is given.

    Example: sharpness data check --data imagenet-lt --data-root /data/imagenet --lists lists --workers 8
    """
    from sharpness.data.check_lists import check_files, groups_in_words, list_in_words
    from sharpness.data.prepared import lost_in_words

    transform, found = listed.transform(), listed.find()
    for images in {id(images): images for images in found.parts.values()}.values():
        say(list_in_words(images, found.num_classes), err=as_json)
    say("\n".join(groups_in_words(found.counts)), err=as_json)
    # Facts from the lists come first, because checking a million files takes an hour.
    reports = check_files(found, listed.root, transform, decode, listed.workers)
    wrong = sum(len(report.wrong) for report in reports)
    for report in reports:
        for _, message in report.wrong:
            say(message, err=as_json)
        if report.wrong:
            say(f"{report.images.part}: {lost_in_words(report.wrong_per_class, found.class_names)}", err=as_json)
    if as_json:
        wrongs = [{"part": r.images.part, "images": len(r.images), "wrong": len(r.wrong)} for r in reports]
        say(json.dumps(wrongs, indent=1))
    if wrong and listed.policy == "stop":
        raise UserError(f"{wrong:,} images cannot be read: restore them, or leave them out with --policy skip")
    if not wrong:
        say("every image can be read" if decode else "every file is there", err=as_json)


@data.command(cls=OneExample)
@_options
@click.option("-o", "--out", required=True, type=click.Path(), help="Folder for the prepared images.")
@AS_JSON
@grouped(listed=Listed)
def prepare(listed: Listed, out: str, as_json: bool) -> None:
    """Decode the images of lists once, into a folder that you can then pass as --data-root.

    Prepared images are read from disk on demand, however many there are. Run the same command again to resume an
    interrupted one.

    Example: sharpness data prepare --data imagenet-lt --data-root /data/imagenet --lists lists -o prepared --workers 8
    """
    from sharpness.data.prepared import lost_in_words, prepare as prepare_images

    require_folder("--out", out)
    transform, found = listed.transform(), listed.find()
    described = prepare_images(
        listed.name, dict(found.parts), listed.root, Path(out), transform, found.class_names,
        policy=listed.policy, workers=listed.workers,
    )  # fmt: skip
    for part, entry in described["parts"].items():
        shape = " x ".join(map(str, entry["shape"]))
        say(f"{part}: {entry['rows']:,} images of {shape} in {Path(out) / entry['images']}", err=as_json)
        if entry["skipped"]:
            lost = {int(label): int(number) for label, number in entry["skipped_per_class"].items()}
            say("\n".join([*entry["skipped"], lost_in_words(lost, found.class_names)]), err=as_json)
    if as_json:
        say(json.dumps([{"part": part, **entry} for part, entry in described["parts"].items()], indent=1))


@data.command(cls=OneExample)
@click.argument("name", type=click.Choice(["glyphs-lt"]))
@click.option("--classes", default=1000, help="Number of classes (characters).")
@click.option("--side", default=64, help="Side of the images, in pixels.")
@click.option("--seed", default=0, help="Seed for the choice of characters and font faces.")
@click.option(
    "--fonts",
    multiple=True,
    type=click.Path(exists=True),
    help="Folder of fonts. Repeatable. [default: /usr/share/fonts]",
)
@click.option("-o", "--out", required=True, type=click.Path(), help="New folder for the images and their lists.")
@AS_JSON
def make(name: str, classes: int, side: int, seed: int, fonts: tuple[str, ...], out: str, as_json: bool) -> None:
    """Render a data set with many classes: Han characters in the fonts installed on this computer.

    Training and test images use different font faces, and further characters form an open set. The folder contains
    image lists for sharpness data check and prepare; glyphs.json records fonts and versions.

    Example: sharpness data make glyphs-lt --classes 1000 -o glyphs
    """
    from sharpness.data.glyphs import make_glyphs

    require_folder("--out", out)
    folders = [Path(folder) for folder in fonts or ("/usr/share/fonts",)]
    record = make_glyphs(folders, Path(out), classes, side=side, seed=seed)
    sizes = ", ".join(f"{part} {number:,}" for part, number in record["images"].items())
    faces = record["faces"]
    if as_json:
        say(json.dumps([{"data": name, "folder": out, **record}], indent=1))
        return
    say(
        f"{name}: {classes:,} classes, images: {sizes}; faces: {len(faces['train'])} for training, "
        f"{len(faces['test'])} for tests; in {out}"
    )
