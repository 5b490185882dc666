from pathlib import Path

import pytest

from yolo.preflight.collect import probe_request, recipe_files
from yolo.preflight.host_info import ProbeRequest
from yolo.recipe import prepare


def asked(*overrides: str, recipe: str = "recipes/demo.yaml") -> ProbeRequest:
    return probe_request(prepare(recipe, overrides).resolved, 10)


def test_recipes_are_asked_for_with_all_their_parents() -> None:
    resolved = prepare("recipes/deepspeed/zero1.yaml").resolved
    paths = [Path(file).resolve() for file in recipe_files(resolved)]
    expected = {Path("recipes/deepspeed/zero1.yaml").resolve(), Path("recipes/demo.yaml").resolve()}
    assert set(paths) == expected


def test_of_coco_data_both_annotation_files_and_each_folder_of_images_once() -> None:
    question = asked("data.root=d", "data.images=i")
    assert question.files[1:] == [
        "d/annotations/instances_train.json",
        "d/annotations/instances_val.json",
    ]
    assert question.folders == ["d/i"]
    assert asked("data.root=d", "data.images=i", "data.val_images=v").folders == ["d/i", "d/v"]


def test_of_yolo_data_both_splits() -> None:
    question = asked("data.format=yolo", "data.root=d", "data.train=x.yaml", "data.val=x.yaml")
    assert question.files[1:] == ["d/x.yaml"]
    assert question.splits == [("d/x.yaml", "train"), ("d/x.yaml", "val")]
    assert question.folders == []


def test_the_data_yaml_may_be_the_root() -> None:
    question = asked("data.format=yolo", "data.root=d/x.yaml")
    assert question.splits == [("d/x.yaml", "train"), ("d/x.yaml", "val")]


def test_of_pascal_voc_data_the_images_of_the_folder() -> None:
    question = asked("data.format=voc", "data.root=d", "data.train=train", "data.val=val")
    assert question.files[1:] == []
    assert question.folders == ["d"]


def test_of_shards_the_index_of_those_that_lie_on_the_hosts() -> None:
    question = asked("data.format=shards", "data.root=d", "data.train=t", "data.val=http://host/v")
    assert question.files[1:] == ["d/t/index.json"]
    assert question.folders == question.splits == []


@pytest.mark.parametrize("key", ["model.weights", "cluster.profile"])
def test_other_files_that_every_rank_reads_are_asked_for(key: str, tmp_path: Path) -> None:
    file = tmp_path / "file.safetensors"
    file.touch()
    assert str(file) in asked(f"{key}={file}").files


def test_a_profile_that_is_a_name_is_no_file() -> None:
    assert len(asked("cluster.profile=4x8xa100-100gbe").files) == 3
