"""Report what lies among a data set's images and labels and is not read: nobody shall believe that it was trained on."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from yolo.data.dataset import DataReport, Problem
from yolo.data.image.files import FolderContent

NOT_LABELS = ("classes.txt", "predefined_classes.txt", "readme")
"""Beginnings of the names of text files that lie among labels and are none."""


def report_other_files(
    folders: Iterable[FolderContent], labels: Iterable[Path], report: DataReport
) -> None:
    """Report images of formats that are not read, files of unknown suffix, and label files without an image.

    `labels` are the label files that belong to the folders' images, whether they exist or not.
    """
    expected = set(labels)
    unread = [path for content in folders for path in content.unread]
    if unread:
        suffixes = Counter(path.suffix.lower() for path in unread)
        counts = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common())
        report.warn(
            f"images that are not read: {counts}, such as {unread[0]}; convert them to JPEG or PNG"
        )
    for content in folders:
        for path in content.unknown:
            report.add(Problem.UNKNOWN_FILE, str(path))
    for folder, suffix in sorted({(path.parent, path.suffix) for path in expected}):
        for path in sorted(folder.glob(f"*{suffix}")):
            is_label = not path.name.lower().startswith((".", *NOT_LABELS))
            if is_label and path not in expected:
                report.add(Problem.UNUSED_LABELS, str(path))
