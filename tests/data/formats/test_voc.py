from collections.abc import Callable
from pathlib import Path

import pytest

from yolo.data.dataset import Problem
from yolo.data.formats.voc import read_voc
from yolo.data.open import load_annotated, load_split
from yolo.errors import DataError
from yolo.recipe import prepare

Picture = Callable[..., Path]
XML = "<annotation><filename>other.jpg</filename><size><width>60</width><height>40</height></size>{}</annotation>"


def thing(name: str = "cat", box: str = "11 6 30 20", more: str = "") -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=False)
    inner = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners)
    return f"<object><name>{name}</name>{more}<bndbox>{inner}</bndbox></object>"


@pytest.fixture
def voc(tmp_path: Path, picture: Picture) -> Path:
    """A data set of images a and b in `train`, b and c in `val`; only a and c have objects."""
    root = tmp_path / "voc"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    for name in "abc":
        picture(f"{name}.png").rename(root / "JPEGImages" / f"{name}.png")
    for name, objects in (("a", thing("dog") + thing()), ("b", ""), ("c", thing())):
        (root / "Annotations" / f"{name}.xml").write_text(XML.format(objects))
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("b.png\nc  1\n")
    return root


def with_objects(voc: Path, objects: str) -> Path:
    (voc / "Annotations" / "a.xml").write_text(XML.format(objects))
    return voc


def test_pixels_count_from_1_and_the_last_is_within(voc: Path) -> None:
    dataset = read_voc(with_objects(voc, thing(box="11 6 30 20")), "train")
    assert dataset.records[0].boxes.tolist() == [[10, 5, 30, 20]]
    assert dataset.report.lines() == []


def test_a_box_that_counts_from_0_is_not_reported_as_reaching_out(voc: Path) -> None:
    dataset = read_voc(with_objects(voc, thing(box="0 0.5 30.5 20")), "train")
    assert dataset.records[0].boxes.tolist() == [[0, 0, 30.5, 20]]
    assert dataset.report.lines() == []


def test_classes_are_the_sorted_names_of_the_training_split(voc: Path) -> None:
    assert read_voc(voc, "train").class_names == ("cat", "dog")
    val = read_voc(voc, "val", train="train")
    assert val.class_names == ("cat", "dog")
    assert [len(record.boxes) for record in val.records] == [0, 1]
    (voc / "classes.txt").write_text("dog\ncat\nbird\n")
    assert read_voc(voc, "train").class_names == ("dog", "cat", "bird")


def test_a_class_that_training_lacks_is_counted(voc: Path) -> None:
    (voc / "Annotations" / "c.xml").write_text(XML.format(thing("zebra")))
    report = read_voc(voc, "val", train="train").report
    assert report.counts == {Problem.UNKNOWN_CLASS: 1}
    assert "c.xml: 'zebra'" in report.lines()[0]


def test_a_difficult_object_is_neither_trained_on_nor_a_miss(voc: Path) -> None:
    objects = thing(more="<difficult>1</difficult>") + thing("dog")
    dataset = read_voc(with_objects(voc, objects), "train")
    assert dataset.records[0].crowd.tolist() == [True, False]
    assert dataset.report.counts == {Problem.DIFFICULT: 1}


def test_parts_of_an_object_are_not_its_box(voc: Path) -> None:
    parts = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    dataset = read_voc(with_objects(voc, thing(more=parts)), "train")
    assert dataset.records[0].boxes.tolist() == [[10, 5, 30, 20]]


@pytest.mark.parametrize(
    "size",
    ["<width>0</width><height>0</height>", "", "<width>x</width>"]
    + [f"<width>{n}</width><height>40</height>" for n in ("1e300", "9" * 31, "inf", "nan", "-60")],
)
def test_a_size_that_is_not_stated_is_the_images(voc: Path, size: str) -> None:
    text = f"<annotation><size>{size}</size>{thing()}</annotation>"
    (voc / "Annotations" / "a.xml").write_text(text)
    record = read_voc(voc, "train").records[0]
    assert (record.width, record.height) == (60, 40)


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ("<object><bndbox/></object>", "object[0].name: found '', expected a class name"),
        ("<object><name>cat</name></object>", "object[0].bndbox.xmin: found 'None', expected"),
        (thing(box="1 2 three 4"), "object[0].bndbox.xmax: found 'three', expected pixels"),
        (thing(box="1 2 nan 4"), "object[0].bndbox.xmax: found 'nan'"),
        (thing(box="-inf 2 3 4"), "object[0].bndbox.xmin: found '-inf'"),
        (thing(box="1 2 3 1e300"), "object[0].bndbox.ymax: found '1e300'"),
        (thing(box=f"1 2 3 {9**31}"), f"object[0].bndbox.ymax: found '{9**31}'"),
    ],
)
def test_a_malformed_object_names_field_and_value(voc: Path, objects: str, reason: str) -> None:
    (voc / "classes.txt").write_text("cat\n")
    report = read_voc(with_objects(voc, objects), "train").report
    assert report.counts[Problem.MALFORMED_BOX] == report.bad_boxes == report.boxes == 1
    assert reason in report.lines()[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<annotation>", "no element found"),
        (b"", "no element found"),
        (b"\xff\xfe\x00", "unclosed token"),
        (b"<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", "has a <!DOCTYPE>, which is not read"),
        ("<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>".encode("utf-16"), "has a <!DOCTYPE>"),
        (b"<a>" + b"x" * 5_000_000 + b"</a>", "expected at most 4000000"),
    ],
    ids=["cut off", "empty", "noise", "entities", "entities in UTF-16", "too large"],
)
def test_a_malformed_xml_file_quarantines_its_image(voc: Path, content: bytes, reason: str) -> None:
    (voc / "Annotations" / "b.xml").write_bytes(content)
    report = read_voc(voc, "train").report
    assert report.bad_images == report.counts[Problem.MALFORMED_LABELS] == 1
    assert reason in report.lines()[0]


def test_a_listed_image_or_xml_file_that_is_missing_is_counted(voc: Path) -> None:
    (voc / "ImageSets" / "Main" / "train.txt").write_text("a\ngone\n")
    report = read_voc(voc, "train").report
    assert report.counts == {Problem.NO_LABELS: 1, Problem.MISSING_IMAGE: 1}


@pytest.mark.parametrize("layout", ["together", "apart"])
def test_folders_of_images_and_xml_files_are_splits(voc: Path, tmp_path: Path, layout: str) -> None:
    images, annotations = {
        "together": ("train", "train"),
        "apart": ("train/images", "train/annotations"),
    }[layout]
    root = tmp_path / "flat"
    for kind, source, target in (
        ("png", "JPEGImages", images),
        ("xml", "Annotations", annotations),
    ):
        (root / target).mkdir(parents=True, exist_ok=True)
        for name in "ab":
            (voc / source / f"{name}.{kind}").rename(root / target / f"{name}.{kind}")
    (root / annotations / "alone.xml").touch()
    dataset = read_voc(root, "train")
    assert [len(record.boxes) for record in dataset.records] == [2, 0]
    assert dataset.report.counts == {Problem.UNUSED_LABELS: 1}


def test_a_split_that_is_not_there_names_those_that_are(voc: Path) -> None:
    with pytest.raises(DataError, match="test.txt: no such list.*splits there: train, val"):
        read_voc(voc, "test")


def test_a_recipe_names_the_lists(voc: Path) -> None:
    overrides = [f"data.root={voc}", "data.format=voc", "data.train=train", "data.val=val"]
    data = prepare("recipes/demo.yaml", overrides, 1).resolved.recipe.data
    assert len(load_split(data, "train")) == len(load_split(data, "val")) == 2
    assert load_split(data, "val").class_names == ("cat", "dog")


@pytest.mark.parametrize("place", ["ImageSets/Main/val.txt", "."])
def test_evaluation_takes_a_list_or_the_folder(voc: Path, place: str) -> None:
    dataset = load_annotated(voc / place)
    assert [record.path.name for record in dataset.records] == ["b.png", "c.png"]
    assert dataset.class_names == ("cat", "dog")


def test_a_list_tells_flags_from_names_and_takes_suffixes_in_any_case(voc: Path) -> None:
    (voc / "JPEGImages" / "b.png").rename(voc / "JPEGImages" / "b 1.png")
    (voc / "ImageSets" / "Main" / "train.txt").write_text("a -1\nb 1\nc.JPG\nb 1.Png 1\n")
    dataset = read_voc(voc, "train")
    names = [record.path.name for record in dataset.records]
    assert names == ["a.png", "b 1.png", "c.png", "b 1.png"]


def test_evaluation_of_a_misspelt_split_reads_no_other(voc: Path) -> None:
    with pytest.raises(DataError, match="vall.txt: no such list.*splits there: train, val$"):
        load_annotated(voc, "vall")
    (voc / "ImageSets" / "Main" / "val.txt").rename(voc / "ImageSets" / "Main" / "dog_val.txt")
    with pytest.raises(DataError, match="val.txt: no such list.*splits there: train, dog_val$"):
        load_annotated(voc)


def test_evaluation_takes_all_images_of_a_folder_without_splits_only(voc: Path) -> None:
    (voc / "ImageSets" / "Main").rename(voc / "lists")
    assert len(load_annotated(voc)) == 3
    with pytest.raises(DataError, match="test is no folder of images"):
        load_annotated(voc, "test")
    (voc / "valid").mkdir()
    with pytest.raises(DataError, match="val is no folder of images.*splits there: valid$"):
        load_annotated(voc)


def test_a_split_or_image_folder_without_use_is_refused(voc: Path) -> None:
    with pytest.raises(DataError, match="val.txt: is one split, so --split test has no use"):
        load_annotated(voc / "ImageSets" / "Main" / "val.txt", "test")
    with pytest.raises(DataError, match="so --images pictures has no use"):
        load_annotated(voc, images=Path("pictures"))
