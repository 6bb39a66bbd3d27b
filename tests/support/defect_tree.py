"""A small campus in GeoText-1652's layout: clean, or with one defect of every kind, each in an image of its own.

`fixed_overlay` needs many places, coordinates are not part of the layout, and there a record without caption is an
error; their tests stand by themselves.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
from geotext_layout import write_geotext_layout
from PIL import Image, ImageDraw, ImageFont

from pemoe.datasets_scripts.builds.rows import load_source
from pemoe.datasets_scripts.campus.source import rows_for_place
from pemoe.datasets_scripts.schema import FEATURES
from pemoe.datasets_scripts.text.sentences import complete_sentences

PLACES = {"train": 18, "test": 4}
JSON_NAMES = {"train": "train.json", "test": "test_951_version.json"}
BOX = [0.5, 0.4, 0.3, 0.3]
Planted = set[tuple[str, str]]


def write_clean_tree(root: Path, *, train_places: int = PLACES["train"]) -> Path:
    """The campus, extracted, without the cut and joined captions that its raw texts have on purpose."""
    options = {"drone_views": 2, "ground_views": 1, "workers": 1}
    campus = load_source("campus", train_places=train_places, test_places=PLACES["test"], **options)
    raw = campus.cast_column("image", datasets.Image(decode=False))
    clean = {
        split: datasets.Dataset.from_list([_whole(row) for row in rows], features=FEATURES)
        for split, rows in raw.items()
    }
    return write_geotext_layout(datasets.DatasetDict(clean), root, archives=False)


def write_defect_tree(root: Path) -> Planted:
    """The clean tree with one of every defect planted; (kind, image_id or place_id) of each comes back."""
    tree = Tree(write_clean_tree(root))
    planted = {found for kind, plant in PLANTS.items() for found in (plant(tree) or {(kind, tree.last)})}
    tree.save()
    return planted


def _whole(row: dict) -> dict:
    if row["split"] == "train":
        row["captions"] = [" ".join(complete_sentences(caption)) for caption in row["captions"]]
    return row


class Tree:
    """Records and files of a tree; `pick` gives images that no defect has been planted in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records = {split: json.loads((root / name).read_text()) for split, name in JSON_NAMES.items()}
        self.places = list(dict.fromkeys(record["image_id"][:4] for record in self.records["train"]))
        self.last = ""
        self._used: set[str] = set()

    def save(self) -> None:
        for split, name in JSON_NAMES.items():
            (self.root / name).write_text(json.dumps(self.records[split], indent=1))

    def pick(self, name: str, split: str = "train") -> str:
        """The next unused image whose file name holds `name`; the first and the last three places stay as they are."""
        for record in self.records[split]:
            image_id = record["image_id"]
            kept = {self.places[0], *self.places[-3:]}
            if image_id not in self._used and image_id[:4] not in kept and name in image_id[5:]:
                self._used.add(image_id)
                self.last = image_id
                return image_id
        raise AssertionError(f"no unused {name} left; take more places")

    def records_of(self, image_id: str) -> list[dict]:
        return [record for split in self.records.values() for record in split if record.get("image_id") == image_id]

    def path(self, image_id: str) -> Path:
        return self.root / "images" / self.records_of(image_id)[0]["image"]

    def edit(self, name: str, change: Callable[[dict], object]) -> None:
        """Change the first record of the next unused image."""
        change(self.records_of(self.pick(name))[0])

    def repaint(self, name: str, change: Callable[[Image.Image], Image.Image]) -> None:
        """Change the picture of the next unused image."""
        path = self.path(self.pick(name))
        with Image.open(path) as image:
            path.write_bytes(_jpeg(change(image.copy())))


def _jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def stamp(image: Image.Image, text: str = "Image Landsat / Data SIO, NOAA") -> Image.Image:
    """Write a line as Google Earth does: white with a dark shadow, near the bottom."""
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(max(9, image.height // 50))
    x, y = (image.width - draw.textlength(text, font=font)) / 2, image.height * 0.92
    draw.text((x + 1, y + 1), text, font=font, fill=(20, 20, 20))
    draw.text((x, y), text, font=font, fill=(255, 255, 255))
    return image


def mark(image: Image.Image) -> Image.Image:
    """Darken a line one pixel high near the bottom: text too small to be read."""
    row, columns = int(0.944 * image.height), range(image.width // 2 - 13, image.width // 2 + 13)
    for column in columns:
        image.putpixel((column, row), tuple(int(0.7 * value) for value in image.getpixel((column, row))))
    return image


# records -------------------------------------------------------------------------------------------------------------


def _bad_image_id(tree: Tree) -> Planted:
    tree.records["train"].append({"image_id": "stray.jpg", "image": "train/stray.jpg", "caption": "A left hall."})
    return {("bad_image_id", "stray.jpg")}


def _duplicate_record(tree: Tree) -> None:
    image_id = tree.pick("image-01", "test")
    records = tree.records["test"]
    position = next(number for number, record in enumerate(records) if record["image_id"] == image_id)
    records.insert(position, dict(records[position]))


def _unknown_platform(tree: Tree) -> Planted:
    image_id = tree.pick("image-")
    old, place_id = tree.path(image_id), image_id[:4]
    new = f"{place_id}/image_7e591aa3.jpeg"
    for record in tree.records_of(image_id):
        record |= {"image_id": new, "image": f"train/{new}"}
    old.rename(old.with_name("image_7e591aa3.jpeg"))
    return {("unknown_platform", new)}


# captions ------------------------------------------------------------------------------------------------------------


def _add_to_caption(addition: str) -> Callable[[dict], object]:
    return lambda record: record.update(caption=f"{record['caption']} {addition}")


def _without_sides(record: dict) -> None:
    sentences = complete_sentences(record["caption"])
    record["caption"] = " ".join(
        text for text in sentences if "left" not in text.lower() and "right" not in text.lower()
    )


def _duplicate_caption(tree: Tree) -> None:
    first, second, *_ = tree.records_of(tree.pick(".jpg"))
    second["caption"] = first["caption"]


def _shared_caption(tree: Tree) -> None:
    source = tree.records["train"][0]
    tree.edit(".jpg", lambda record: record.update(caption=source["caption"]))


# regions -------------------------------------------------------------------------------------------------------------


def _region(slot: int, sentence: str, in_caption: str = "") -> Callable[[dict], object]:
    """Put a boxed region into a slot, and `in_caption` at the end of the caption."""

    def change(record: dict) -> None:
        record["sentences"][slot], record["bboxes"][slot] = sentence, list(BOX)
        record["caption"] = f"{record['caption']} {in_caption}".strip()

    return change


def _both_sides(tree: Tree) -> Planted:
    text = "A stone aqueduct runs from the left side to the right side."
    tree.edit("image-", _region(1, text, text))
    tree.records_of(tree.last)[0]["bboxes"] = [None, None, None]
    return {("both_sides_sentence", tree.last), ("null_bbox", tree.last)}


def _bbox(value: list | None) -> Callable[[dict], object]:
    return lambda record: record["bboxes"].__setitem__(0, value)


# pictures ------------------------------------------------------------------------------------------------------------


def _missing(tree: Tree) -> None:
    tree.path(tree.pick(".jpg")).unlink()


def _undecodable(tree: Tree) -> None:
    tree.path(tree.pick(".jpg")).write_bytes(b"<html>404</html>" * 20)


def _truncated(tree: Tree) -> None:
    path = tree.path(tree.pick("image-"))
    path.write_bytes(path.read_bytes()[:2000])


def _duplicate_image(tree: Tree) -> None:
    source = tree.path(tree.records["train"][0]["image_id"])
    tree.path(tree.pick(".jpg")).write_bytes(source.read_bytes())


def _near_duplicate(tree: Tree) -> None:
    """The second drone frame of the first place is its first one, encoded anew."""
    first, second = (f"{tree.places[0]}/image-0{number}.jpeg" for number in (1, 2))
    with Image.open(tree.path(first)) as image:
        tree.path(second).write_bytes(_jpeg(image, 70))
    tree.last = second


def _near_duplicate_across(tree: Tree) -> None:
    """A training frame is a test frame, encoded anew."""
    source = tree.records["test"][0]["image_id"]
    with Image.open(tree.path(source)) as image:
        tree.path(tree.pick("image-02")).write_bytes(_jpeg(image, 70))


# places --------------------------------------------------------------------------------------------------------------


def _unsafe_archive(tree: Tree) -> Planted:
    place_id = tree.places[-1]
    folder = tree.root / "images" / "train" / place_id
    shutil.rmtree(folder)
    with tarfile.open(folder.with_name(f"{place_id}.tar.gz"), "w:gz") as archive:
        member = tarfile.TarInfo("../escape.jpg")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"abcd"))
    return {("unsafe_archive", place_id)}


def _broken_archive(tree: Tree) -> Planted:
    """An archive cut off in the middle, as by a download that broke off."""
    place_id = tree.places[-3]
    folder = tree.root / "images" / "train" / place_id
    path = folder.with_name(f"{place_id}.tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, place_id)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shutil.rmtree(folder)
    return {("broken_archive", place_id)}


def _place_in_two_splits(tree: Tree) -> Planted:
    place_id = tree.places[-2]
    row = rows_for_place("test", PLACES["test"], drone_views=1, ground_views=1)[1]
    image_id = f"{place_id}/image-54.jpeg"
    image = f"test/query/{image_id}"
    (tree.root / "images" / image).parent.mkdir(parents=True)
    (tree.root / "images" / image).write_bytes(row["image"]["bytes"])
    tree.records["test"].append({"image_id": image_id, "image": image, "caption": row["captions"]})
    return {("place_in_two_splits", place_id)}


def _non_contiguous(tree: Tree) -> Planted:
    place_id = tree.places[0]
    moved = tree.records_of(f"{place_id}/image-02.jpeg")
    tree.records["train"] = [record for record in tree.records["train"] if record not in moved] + moved
    return {("non_contiguous_place", place_id)}


FALSE_SIDE = "A bright fountain with stone lions lies near the road."
PLANTS: dict[str, Callable[[Tree], Planted | None]] = {
    "bad_record": lambda tree: tree.edit(".jpg", lambda record: record.pop("caption")),
    "bad_image_id": _bad_image_id,
    "duplicate_record": _duplicate_record,
    "unknown_platform": _unknown_platform,
    "empty_caption": lambda tree: tree.edit("image-", lambda record: record.update(caption="  ")),
    "truncated_caption": lambda tree: tree.edit(
        "image-", lambda record: record.update(caption=record["caption"][:-9])
    ),
    "mof_joint": lambda tree: tree.edit(
        "image-", lambda record: record.update(caption=record["caption"].replace(". ", ". [MOF] ", 1))
    ),
    "refused_caption": lambda tree: tree.edit("image-", _add_to_caption("I apologize, but the rest is unclear.")),
    "rejected_words": lambda tree: tree.edit("image-", _add_to_caption("The sign reads 19.")),
    "no_left_right": lambda tree: tree.edit("image-", _without_sides),
    "duplicate_caption": _duplicate_caption,
    "shared_caption": _shared_caption,
    "stale_sentence": lambda tree: tree.edit("image-", _region(1, "On the left side is a lighthouse on an islet.")),
    "sentence_caption_disagree": lambda tree: tree.edit(
        "image-",
        _region(
            1,
            "On the upper middle side there is a round fountain with stone lions.",
            "On the left side there is a round fountain with stone lions.",
        ),
    ),
    "false_side_sentence": lambda tree: tree.edit("image-", _region(2, FALSE_SIDE, FALSE_SIDE)),
    "both_sides_sentence": _both_sides,
    "null_bbox": lambda tree: tree.edit("image-", _bbox(None)),
    "bad_bbox": lambda tree: tree.edit("image-", _bbox([0.5, 0.5, 1.4, 0.2])),
    "noisy_bbox": lambda tree: tree.edit("image-", _bbox([0.5, 0.5, 0.05, 0.9])),
    "missing_image": _missing,
    "undecodable_image": _undecodable,
    "truncated_image": _truncated,
    "non_rgb_image": lambda tree: tree.repaint(".jpg", lambda image: image.convert("L")),
    "tiny_image": lambda tree: tree.repaint(".jpg", lambda image: image.resize((40, 40))),
    "odd_size_image": lambda tree: tree.repaint(".jpg", lambda image: image.crop((0, 30, 160, 100))),
    "blank_image": lambda tree: tree.repaint(".jpg", lambda image: Image.new("RGB", image.size)),
    "duplicate_image": _duplicate_image,
    "near_duplicate_image": _near_duplicate,
    "near_duplicate_across_places": _near_duplicate_across,
    "burnt_in_attribution": lambda tree: tree.repaint("image-", stamp),
    "unsafe_archive": _unsafe_archive,
    "broken_archive": _broken_archive,
    "place_in_two_splits": _place_in_two_splits,
    "non_contiguous_place": _non_contiguous,
}
