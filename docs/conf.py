"""How `make docs` builds the site: Sphinx with furo, MyST pages, executed tutorials and the docstrings' API reference.

The build needs no network, and what it builds is read without one: mathematics is set by a bundled MathJax.
"""

import sys
from pathlib import Path

import xattn

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "xattn"
author = "The xattn authors"
release = version = xattn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "myst_nb",
    "docstrings",
    "command_help",
    "public_face",
    "repository_links",
]
exclude_patterns = ["_build"]
nitpicky = True
# Other packages are not looked up: the build needs no network.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!xattn\.).*"),
    (r"py:class", r"xattn\.models\.config\.\w+Config"),  # the help of `xattn train` explains their fields
]
show_warning_types = True

html_theme = "furo"
html_title = f"xattn {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

# Every build runs the tutorials: a cache knows the notebook, but not the package that it shows.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_merge_streams = True

# Docstrings write `code` as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
maximum_signature_line_length = 110
add_module_names = False
