"""Folders in Pascal VOC's layout: an XML file for each image.

The files are in ``Annotations/`` beside ``JPEGImages/`` or ``images/``, or beside the images. The
splits are the lists in ``ImageSets/Main/``, or folders of such files; else all is one split, "all".

Corners count from 1 and the last ones are inclusive, so left and top are ``xmin - 1`` and
``ymin - 1`` and right and bottom ``xmax`` and ``ymax``, as in Detectron2's loader of VOC. Polygons
count from 1 as well. Objects marked ``difficult`` become crowds.
"""

import itertools
import math
import os
import reprlib
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from ...utils.errors import reason_of
from ...utils.files import file_alike
from ...utils.progress import told
from .converted_folders import XML_ENDINGS, holds, is_xml
from .converted_split import IMAGE_ENDINGS, Source, Split, all_files, is_image, some

# The folders of XML files and of images, relative to a split's folder or the whole data set's.
_PLACES = (
    ("Annotations", "JPEGImages"),
    ("Annotations", "images"),
    ("Annotations", ""),
    ("annotations", "images"),
    ("annotations", "JPEGImages"),
    ("", ""),
)
# An encoding that Python does not know raises a LookupError.
_NO_XML = (OSError, ValueError, ParseError, DefusedXmlException, LookupError, RecursionError)
# What annotation programs write for an object that is not difficult.
_NOT_DIFFICULT = ("", "0", "false", "no", "none", "unspecified")
_PARTS = frozenset(itertools.chain(*_PLACES, ("ImageSets", "labels")))


def split_names(folder: str) -> list[str]:
    """The splits of a folder; empty where it has another layout."""
    return list(_split_places(folder))


class _Place(NamedTuple):
    """The folders of a split; ``images_list`` is the file that lists its images, None for all."""

    xml_folder: str
    image_folder: str
    images_list: str | None = None


def _split_places(folder: str) -> dict[str, _Place]:
    place = _find_place(folder)
    if place is not None:
        main = os.path.join(folder, "ImageSets", "Main")
        lists = [name[:-4] for name in _names(main) if name.endswith(".txt")]
        # VOC also has cat_train.txt, which says which images of train have a cat.
        marked = [s for s in lists if any(s.endswith(f"_{other}") for other in lists)]
        marked = [s for s in marked if _has_marks(os.path.join(main, f"{s}.txt"))]
        splits = [s for s in lists if s not in marked]
        listed = {s: place._replace(images_list=os.path.join(main, f"{s}.txt")) for s in splits}
        return listed or {"all": place}
    places = {}
    for name in _names(folder):
        path = os.path.join(folder, name)
        # A folder with lists of its own is a data set, such as VOCdevkit's VOC2007.
        if name not in _PARTS and not os.path.isdir(f"{path}/ImageSets"):
            places[name] = _find_place(path)
    return {name: place for name, place in places.items() if place is not None}


def _has_marks(images_list: str) -> bool:
    """Whether a list says of its first image if it has objects of a class: "000005 -1"."""
    try:
        with open(images_list, encoding="utf-8-sig", errors="replace") as file:
            return file.readline().split()[1:] in (["-1"], ["0"], ["1"])
    except OSError:
        return True


def _find_place(folder: str) -> _Place | None:
    for xml, images in _PLACES:
        place = _Place(os.path.join(folder, xml), os.path.join(folder, images))
        if holds(place.xml_folder, XML_ENDINGS) and holds(place.image_folder, IMAGE_ENDINGS):
            return place
    return None


def _names(folder: str) -> list[str]:
    """The sorted names in a folder that are not hidden; none where it does not exist."""
    try:
        return sorted(name for name in os.listdir(folder) if name[0] != ".")
    except OSError:
        return []


def open_source(folder: str) -> Source:
    """See :class:`Source`."""
    places = _split_places(folder)
    files = [place.images_list for place in places.values() if place.images_list]
    for parent in dict.fromkeys(itertools.chain(*(place[:2] for place in places.values()))):
        names = (name for name in _names(parent) if is_xml(name) or is_image(name))
        files += [os.path.join(parent, name) for name in names]
    files += itertools.chain(*map(_unread, places.values()))

    def read() -> tuple[list[str], dict[str, Split]]:
        splits = {name: _read_split(folder, name, place) for name, place in places.items()}
        objects = [entry for split in splits.values() for entry in split.annotations]
        classes = sorted({entry["category_id"] for entry in objects})
        ids = {name: place for place, name in enumerate(classes, start=1)}
        for entry in objects:
            entry["category_id"] = ids[entry["category_id"]]
        return classes, splits

    return Source(files, read)


def _read_split(folder: str, name: str, place: _Place) -> Split:
    """Read the files of a split; each ``category_id`` is still a class's name."""
    split, strays, used = Split(), [], set()
    images = filter(is_image, _names(place.image_folder))
    images = {os.path.splitext(image)[0]: image for image in images}
    files = [os.path.join(place.xml_folder, n) for n in _names(place.xml_folder) if is_xml(n)]
    if place.images_list:
        known = set(files)
        files = []
        for file, line in _listed(place).items():
            if file in known:
                files.append(file)
            elif os.path.isfile(file):
                split.faults.append(
                    f"{place.images_list} line {line} names {file}, which is not itself in "
                    f"{place.xml_folder}: move it and its image up, and correct the line"
                )
            else:
                split.faults.append(
                    f"{place.images_list} line {line} names an image whose annotations, {file}, "
                    f"do not exist{file_alike(file)}: put the file there, or correct the line"
                )
    for file in told(f"reading {name}", files):
        try:
            root = parse(file).getroot()
        except _NO_XML as error:
            reason = reason_of(error)
            split.faults.append(f"{file} is no readable XML ({reason}): write it again")
            continue
        stem = os.path.splitext(os.path.basename(file))[0]
        of_stem, named = images.pop(stem, None), _named_image(root, place.image_folder)
        # If a.jpg and a.png both exist, a.xml says which one it belongs to.
        image = named if named and os.path.splitext(named)[0] == stem else of_stem or named
        if image is None:
            strays.append(file)
        else:
            used.add(image)
            path = os.path.join(place.image_folder, image)
            split.faults += _read_file(split, file, root, os.path.relpath(path, folder))
    if not files and not split.faults:
        split.faults.append(f"{place.images_list} names no image: list some, or delete the file")
    if place.images_list:  # the list asks for each of these images
        for file in strays:
            text = f"{file} is left out, as its image is not in {place.image_folder}: put it there"
            split.findings.append(("error", text))
    elif strays:
        text = f"annotations without an image are left out {some(strays)}: add the images"
        split.findings.append(("warning", text))
    unread = _unread(place)
    if unread:
        text = f"annotations in folders below {place.xml_folder} are left out {some(unread)}: move "
        split.findings.append(("warning", text + "them and their images up"))
    unlabelled = [os.path.join(place.image_folder, i) for i in images.values() if i not in used]
    if unlabelled and not place.images_list:
        text = f"images without annotations are left out {some(unlabelled)}: add XML files, with "
        split.findings.append(("warning", text + "no object in them if that is meant"))
    difficult = sum(entry["iscrowd"] for entry in split.annotations)
    if difficult:
        split.notes.append(
            f"{difficult} objects marked difficult are crowds: training leaves them out, and "
            "evaluation counts detections of them neither as right nor as wrong"
        )
    return split


def _unread(place: _Place) -> list[str]:
    """The XML files in folders below Annotations that are not read; none if a list decides."""
    # Folders beside images may hold anything; the path of XML files beside them ends with a slash.
    if place.images_list or not os.path.basename(place.xml_folder):
        return []
    files = filter(is_xml, all_files(place.xml_folder))
    return [file for file in files if os.path.dirname(file) != place.xml_folder]


def _listed(place: _Place) -> dict[str, int]:
    """The XML file of each image in a list of ImageSets, and the number of its first line there."""
    lines: dict[str, int] = {}
    with open(place.images_list, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():  # "000005", or with a class's mark "000005 -1", or "my image"
                names = [line.strip(), line.split()[0]]
                names += [os.path.splitext(name)[0] for name in names if is_image(name)]
                files = [os.path.join(place.xml_folder, f"{name}.xml") for name in names]
                lines.setdefault(next(filter(os.path.isfile, files), files[-1]), number)
    return lines


def _named_image(root: Element, folder: str) -> str | None:
    name = os.path.basename((root.findtext("filename") or "").strip())
    return name if is_image(name) and os.path.isfile(os.path.join(folder, name)) else None


def _read_file(split: Split, file: str, root: Element, image: str) -> Iterator[str]:
    """Add an image and its objects to a split; yield what is wrong with them."""
    sides = [_number(root.findtext(f"size[1]/{side}")) for side in ("width", "height")]
    if not all(side is not None and side >= 1 and side.is_integer() for side in sides):
        yield f"{file} has no size with the image's width and height in pixels: add it"
        return
    split.add_image(image, *map(int, sides))
    for place, entry in enumerate(root.findall("object"), start=1):
        name, corners = (entry.findtext("name") or "").strip(), entry.find("bndbox")
        keys = ("xmin", "ymin", "xmax", "ymax")
        box = [_number(entry.findtext(f"bndbox[1]/{key}")) for key in keys]
        which = f"{file}, object {place},"
        polygons = [_points(polygon) for polygon in entry.findall("polygon")]
        if not name:
            yield f"{which} has no name: add its class"
        elif None in box or box[2] < box[0] or box[3] < box[1]:
            found = None if corners is None else [corner.text for corner in corners]
            text = "give xmin, ymin, xmax and ymax in pixels, the lower ones first"
            yield f"{which} has the bndbox {reprlib.repr(found)}: {text}"
        elif None in polygons:
            yield f"{which} has a polygon that is not x1, y1 to x3, y3 or more: correct it"
        else:
            left, top, right, bottom = box[0] - 1, box[1] - 1, box[2], box[3]
            crowd = (entry.findtext("difficult") or "").strip().lower() not in _NOT_DIFFICULT
            split.add_object(name, [left, top, right - left, bottom - top], polygons, crowd)


def _number(text: str | None) -> float | None:
    """The finite number that a text is; None for any other, and where there is none."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _points(polygon: Element) -> list[float] | None:
    """Return a polygon's x0 y0 x1 y1 ..., counted from 0; None if they are no points."""
    values = {child.tag: _number(child.text) for child in polygon}
    names = [f"{axis}{i}" for i in range(1, len(values) // 2 + 1) for axis in "xy"]
    if len(names) < 6 or set(names) != set(values) or None in values.values():
        return None
    return [values[name] - 1 for name in names]
