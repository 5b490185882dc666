"""Write the generated pages: `keys.md` from the schema, `recipes/` from each recipe's file and the planner.

In other pages it writes what stands between `<!-- generated: ... -->` and `<!-- end -->`: the measured AP. `make configs`
calls it. The pages are in the repository, so that they can be read there too.
"""

import re
import shutil
import statistics
import textwrap
from collections.abc import Iterator
from pathlib import Path

from docs.trade import write_trade
from yolo.bench.accuracy import markdown
from yolo.bench.tiling.rows import TilingResults
from yolo.planner.accuracy import LOSS_BOUND, REFERENCE, SHIPPED, MeasuredAccuracy
from yolo.planner.hardware_catalog import cluster
from yolo.planner.plan import make_plan, resolve_for
from yolo.planner.prediction import Data, Prediction, predict
from yolo.recipe import load_recipe
from yolo.recipe.render.ds_configs import generated_path
from yolo.recipe.render.reference import reference_page

DOCS = Path(__file__).parent
REPOSITORY = DOCS.parent
DATA = {
    "data/demo": Data(images=512, classes=4),
    "data/bccd": Data(images=205, classes=3),
    "data/large": Data(images=24, classes=3),
    "data/coco": Data(images=118_287, classes=80),
}
"""What the shipped recipes train on; the pages must not depend on which data lie on this machine."""
SMALL_CLUSTERS = ("2x1xt4-1gbe", "4x1xt4-1gbe", "2x2xa100-10gbe")
"""For a global batch of 16, which four micro batches on 4 ranks use up."""
LARGE_CLUSTERS = ("1x8xa100", "4x8xa100-10gbe", "4x8xa100-100gbe-rdma")
FAMILIES = {
    "": "To start with",
    "coco": "COCO at full size",
    "communication": "Less communication",
    "deepspeed": "DeepSpeed's own switches",
}
"""Title of each folder of recipes."""
LABELS = ("Data", "Run", "Change")
"""Words that begin a line of a recipe's first comment; its other lines say when to choose it."""
WITH_AP = ("../README.md", "strategies.md", "results.md")
"""Pages, relative to docs/, with generated parts."""
TILING = DOCS / "figures" / "tiling.json"
"""Copied from results/."""
GENERATED = re.compile(r"(?<=<!-- generated: )(\w+) -->\n(.*?)(?=<!-- end -->)", re.DOTALL)
COSTS = (
    *("cluster", "ms per step", "of it communication", "MB sent per step per rank", "GB per rank"),
    "images/s",
)


def recipe_paths() -> list[Path]:
    """All shipped recipes, relative to the repository, in the order of their families."""
    found = (path.relative_to(REPOSITORY) for path in REPOSITORY.glob("recipes/**/*.yaml"))
    return sorted(found, key=lambda path: (list(FAMILIES).index(family(path)), path))


def family(recipe: Path) -> str:
    """The folder of a recipe within recipes/."""
    return recipe.parent.name if recipe.parent.name != "recipes" else ""


def pages() -> dict[str, str]:
    """The text of every generated page, by its path relative to docs/."""
    recipes = {str(path.with_suffix(".md")): recipe_page(path) for path in recipe_paths()}
    texts = {"recipes/index.md": index(), **recipes}
    measured = MeasuredAccuracy.read(SHIPPED)
    filled = {
        name: with_accuracy((DOCS / name).read_text(encoding="utf-8"), measured) for name in WITH_AP
    }
    return {"keys.md": reference_page(), **filled} | {
        name: "\n".join(lines) + "\n" for name, lines in texts.items()
    }


def with_accuracy(text: str, measured: MeasuredAccuracy) -> str:
    """A page's text with its generated parts written again.

    `strategies` is a table: its columns `AP` and `MB per step per rank` are filled, each row found by the recipe that it
    links to, and a summary follows. `accuracy` is a table with each seed's AP, `tiling` that of `make bench-tiling`.
    """

    def part(found: re.Match) -> str:
        name, content = found.groups()
        if name == "accuracy":
            lines = markdown(measured).splitlines()
        elif name == "tiling":
            lines = TilingResults.read(TILING).markdown().splitlines()
        else:
            table = [line for line in content.splitlines() if line.startswith("|")]
            lines = [*_with_ap(table, measured), "", *_summary(measured)]
        return "\n".join([f"{name} -->", "", *lines, "", ""])

    return GENERATED.sub(part, text)


def _with_ap(table: list[str], measured: MeasuredAccuracy) -> Iterator[str]:
    head, rule, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table)
    yield from ("| " + " | ".join(head) + " |", "|" + "|".join(rule) + "|")
    for row in rows:
        (name,) = re.findall(r"/(\w+)\.md\)", row[0])
        runs = measured.strategies.get(REFERENCE if name == "demo" else name, ())
        figures = {"AP": "not measured"}
        if runs:
            ap = statistics.fmean(run.ap for run in runs)
            megabytes = statistics.fmean(run.wire_bytes_per_step_per_rank for run in runs) / 1e6
            figures = {"AP": f"{ap:.3f}", "MB per step per rank": f"{megabytes:.3g}"}
        cells = dict(zip(head, row, strict=True))
        yield _row(*(figures.get(heading, cell) for heading, cell in cells.items()))


def _summary(measured: MeasuredAccuracy) -> list[str]:
    setup = measured.setup
    seeds = " or ".join(map(str, sorted({len(runs) for runs in measured.strategies.values()})))
    losing = [name for name in measured.strategies if measured.change(name) < -LOSS_BOUND]
    names = ", ".join(f"`{name}`" for name in losing)
    lost = f"{names} lost more than {LOSS_BOUND} AP: no plan puts them first"
    text = (
        f"AP: mean of {seeds} {'seed' if seeds == '1' else 'seeds'} of `{setup.base}`, {setup.images} images, {setup.epochs} epochs, "
        f"{setup.ranks} ranks{f' ({measured.note})' if measured.note else ''}. "
        f"{lost if losing else f'No strategy lost more than {LOSS_BOUND} AP'}."
    )
    return textwrap.wrap(text, 120, break_on_hyphens=False)


def index() -> Iterator[str]:
    """The page that lists all recipes."""
    yield "# Shipped recipes"
    yield ""
    yield "Each page has the recipe's file, when to choose it, its command, and what the planner predicts that it costs."
    yield "Start from the nearest one with `extends:` ([writing recipes](../writing-recipes.md)). `yolo recipes` prints this list."
    for folder, title in FAMILIES.items():
        yield from ("", f"## {title}", "")
        yield from _table_head("recipe", "model", "pixels", "batch", "epochs", "what it is")
        for path in (path for path in recipe_paths() if family(path) == folder):
            recipe = load_recipe(REPOSITORY / path).recipe
            page = path.relative_to("recipes").with_suffix("")
            model, train = recipe.model, recipe.train
            cells = [f"[{page}]({page}.md)", f"yolov5{model.variant}", model.image_size]
            yield _row(*cells, train.global_batch, train.epochs, recipe.description)


def recipe_page(path: Path) -> Iterator[str]:
    """The page of one recipe."""
    head, body = _head_and_body((REPOSITORY / path).read_text(encoding="utf-8"))
    labelled = {line.partition(":")[0]: line.partition(":")[2].strip() for line in head}
    about = [line for line in head if line.partition(":")[0] not in LABELS]
    root = "../" * len(path.parts)
    docs = root.removesuffix("../")
    config = generated_path(path, Path("ds_configs"))
    yield from (f"# {path.stem}", "", *about, "")
    if "Data" in labelled:
        yield from (f"Data: {labelled['Data']}", "")
    yield from ("## The recipe", "", f"[{path}]({root}{path}):", "")
    yield from ("```yaml", f"# {path}", *body, "```", "")
    yield from ("## Train it", "", "```sh", *_commands(path, labelled["Run"]), "```", "")
    if change := re.fullmatch(r'(?:make train )?SET="(.*)"(.*)', labelled.get("Change", "")):
        yield from (f"Other values, for example, go behind it: `{change[1]}`{change[2]}.", "")
    yield (
        f"DeepSpeed gets [{config}]({root}{config}). `yolo config {path}` prints every value with its origin, and the "
        f"[reference]({docs}keys.md) explains each key."
    )
    if family(path) == "communication":
        yield from ("", "## What AP it keeps", "", *_kept(path.stem))
    yield from ("", "## What it costs", "", *_costs(path, f"{docs}planner.md"))


def _table_head(*names: str) -> tuple[str, str]:
    return _row(*names), "|---" * len(names) + "|"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _head_and_body(text: str) -> tuple[list[str], list[str]]:
    """The first comment without its marks, and the lines behind it."""
    lines = text.splitlines()
    count = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("#").strip() for line in lines[:count]], lines[count:]


def _commands(path: Path, run: str) -> Iterator[str]:
    """`yolo check` and `yolo train`, with the overrides of the file's own `make train ... SET="..."`."""
    found = re.search(r'SET="(.*)"', run)
    words = " ".join([str(path), *([found[1]] if found else [])])
    yield from (f"yolo check {words}", f"yolo train {words}")


def _kept(name: str) -> Iterator[str]:
    measured = MeasuredAccuracy.read(SHIPPED)
    if name not in measured.strategies:
        yield "Not measured yet: `make bench-accuracy` does."
        return
    aps = {
        strategy: ", ".join(f"{run.ap:.3f}" for run in measured.strategies[strategy])
        for strategy in (name, REFERENCE)
    }
    yield (
        f"AP {aps[name]}, against {aps[REFERENCE]} of the reference without it: {measured.change(name):+.3f} in the mean."
    )
    yield from ("", f"Measured on {measured.described}.")


def _costs(path: Path, planner: str) -> Iterator[str]:
    loaded = load_recipe(REPOSITORY / path)
    data = DATA[loaded.recipe.data.root]
    clusters = SMALL_CLUSTERS if loaded.recipe.train.global_batch < 32 else LARGE_CLUSTERS
    yield f"Predicted from data sheets for the recipe as it is; nothing was measured ([the planner]({planner}))."
    yield from ("", *_table_head(*COSTS))
    for name in clusters:
        profile = cluster(name)
        prediction = predict(profile, resolve_for(profile, loaded).recipe, data)
        yield _row(f"`{name}`", *_cells(prediction))
    name = clusters[1]
    sizes = f"--images {data.images} --classes {data.classes}"
    yield from ("", f"What the planner would choose on `{name}`, and why:", "")
    yield from (f"- {reason}" for reason in make_plan(loaded, cluster(name), data=data).reasons)
    yield from ("", "```sh", f"yolo plan {path} --cluster {name} {sizes}", "```")


def _cells(prediction: Prediction) -> Iterator[str]:
    communication = prediction.exposed_seconds + prediction.codec_seconds
    yield f"{prediction.step_seconds * 1e3:.1f}"
    yield f"{communication * 1e3:.1f} ({communication / prediction.step_seconds:.0%})"
    yield f"{prediction.wire_bytes / 1e6:.3g}"
    yield f"{prediction.memory.total / 1e9:.2f}"
    yield f"{prediction.images_per_second:,.0f}"


def main() -> None:
    """Write all pages again, and remove those of recipes that no longer exist."""
    shutil.rmtree(DOCS / "recipes", ignore_errors=True)
    for name, text in pages().items():
        page = DOCS / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    write_trade()


if __name__ == "__main__":
    main()
