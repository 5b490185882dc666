"""Sphinx's settings for `make docs`. Pages are plain Markdown, which the repository shows as it is."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from yolo import __version__

project = "YOLOv5 on DeepSpeed"
release = __version__
extensions = ["myst_parser", "sphinx_copybutton", "sphinx_external_toc"]
external_toc_exclude_missing = False  # a page that is in no list is a warning
nitpicky = True
smartquotes = False  # `--option` in a plain sentence stays what it is

myst_heading_anchors = 3  # links such as keys.md#train, as the repository's page makes them
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = project
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["_static"]
html_css_files = ["tables.css"]
