"""Pascal VOC's lists and XML files."""

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import cv2
import numpy as np

from tests.fuzz.attempt import Ended
from tests.fuzz.case import Case, Oracle, Verdict
from tests.fuzz.coco_files import DROPS_BOX, DROPS_IMAGE, counts_of
from tests.fuzz.mutations import ENCODINGS, damaged, odd_files
from tests.fuzz.recipes import SOUND

IMAGES, BOXES = 3, 2
"""Of the sound set, and of each of its images."""
OBJECT = (
    "<object><name>cat</name><difficult>0</difficult><bndbox><xmin>{0}</xmin><ymin>5</ymin>"
    "<xmax>30</xmax><ymax>20</ymax></bndbox></object>"
)
XML = (
    "<annotation><size><width>60</width><height>40</height></size>"
    + "".join(OBJECT.format(left) for left in (5, 9))
    + "</annotation>"
)
DOCUMENTS = {
    "a billion laughs": "<!DOCTYPE a [<!ENTITY a 'ha'>"
    + "".join(
        f"<!ENTITY {b} '{f'&{a};' * 10}'>" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><a>&i;</a>",
    "another file": "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation>&x;</annotation>",
    "a document type of its own": '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/a.dtd"><annotation/>',
    "no end": "<annotation>" * 50_000,
    "another root": "<html/>",
    "JSON": "{}",
    "an unknown encoding": '<?xml version="1.0" encoding="klingon"?><annotation/>',
}
NUMBERS = ("1e300", "9" * 31, "nan", "inf", "-1e300", "1e6", "")
LISTS = {
    "an empty list": b"",
    "a list of odd names": b"0\n../../etc/passwd\n/dev/zero\na\0b\n" + b"x" * 5000,
    "a list of noise": bytes(range(256)),
}


def voc_files(folder: Path, random: Random) -> Iterator[Case]:
    """A list or an XML file of every kind of wrong, the rest of the set sound."""
    recipe = folder / "sound.yaml"
    recipe.write_text(SOUND)
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = noise.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "JPEGImages" / f"{number}.png"), pixels)
        (folder / "Annotations" / f"{number}.xml").write_text(XML)
    listing, xml = folder / "ImageSets" / "Main" / "train.txt", folder / "Annotations" / "0.xml"
    listing.write_text("".join(f"{number}\n" for number in range(IMAGES)))
    numbers = iter(range(10_000))

    def case(name: str, named: Path, oracle: Oracle = _none_lost) -> Case:
        out = f"shards-{next(numbers)}"
        arguments = ("shard", str(recipe), out, "--split", "train", "--shards", "1")
        where = (f"data.root={folder}", "data.train=train", "data.format=voc")
        return Case(name, (*arguments, *where, "data.max_bad_share=1.0"), str(named), oracle)

    for name, text in DOCUMENTS.items():
        xml.write_text(text)
        yield case(name, xml)
    for field in ("width", "height", "xmin", "ymax"):
        for number in NUMBERS:
            xml.write_text(re.sub(rf"(<{field}>)\d+", rf"\g<1>{number}", XML))
            yield case(f"{field} {number!r}", xml)
    for name, encode in ENCODINGS.items():
        xml.write_bytes(encode(XML))
        yield case(f"XML, {name}", xml)
    for name, content in damaged(XML.encode(), random, 21):
        xml.write_bytes(content)
        yield case(f"XML, {name}", xml)
    xml.unlink()
    for name in odd_files(xml):
        yield case(f"{name} for XML", xml)
    xml.write_text(XML)
    for name, content in LISTS.items():
        listing.write_bytes(content)
        yield case(name, listing, _is_counted)
    listing.unlink()
    for name in odd_files(listing):
        yield case(f"{name} for a list", listing, _is_counted)


def _none_lost(ended: Ended) -> Verdict:
    """Each image, and each box of the sound images, is written or counted."""
    counts = counts_of(ended)
    dropped = sum(counts[problem] for problem in DROPS_IMAGE)
    assert counts["images"] + dropped == IMAGES, ended.stdout
    told = sum(counts[problem] for problem in DROPS_BOX)
    assert counts["boxes"] + told >= BOXES * (IMAGES - 1), ended.stdout
    has_problems = sum(counts.values()) > counts["images"] + counts["boxes"]
    return Verdict.QUARANTINED if has_problems else Verdict.HARMLESS


def _is_counted(ended: Ended) -> Verdict:
    counts = counts_of(ended)
    assert any(counts[problem] for problem in DROPS_IMAGE), ended.stdout
    return Verdict.QUARANTINED
