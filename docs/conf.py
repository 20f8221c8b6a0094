"""The documentation site: `make docs`."""

import os
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the notebooks

import fairat_lightning

project = "fairat_lightning"
author = "The fairat_lightning developers"
copyright = "2026, the fairat_lightning developers"
version = release = fairat_lightning.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "generated",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
suppress_warnings = ["mystnb.unknown_mime_type"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3
myst_url_schemes = ["http", "https"]

# The tutorials are run at each build, in folders of their own, so that they cannot rot.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_in_temp = True
nb_merge_streams = True

default_role = "code"
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
python_use_unqualified_type_names = True
nitpicky = True

REFERENCES = {
    "torch": "https://docs.pytorch.org/docs/stable/",
    "lightning": "https://lightning.ai/docs/pytorch/stable/",
    "python": "https://docs.python.org/3/",
}


def reachable(address: str) -> bool:
    """Whether another project's list of names can be read: without a network its names are shown without a link."""
    try:
        with urlopen(address + "objects.inv", timeout=5) as answer:
            return answer.status == 200
    except (URLError, OSError, ValueError):
        return False


intersphinx_mapping = {name: (address, None) for name, address in REFERENCES.items() if reachable(address)}
# Names that are not ours: linked where their documentation can be reached, and no warning where it cannot.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(torch|lightning|torchmetrics|numpy|np|pandas|rich|collections|pathlib|typing|argparse|os|datasets|omegaconf)\b.*",
    ),
    (
        r"py:.*",
        r"(Any|Tensor|Module|Callable|Sequence|Mapping|Iterable|Iterator|Path|DataLoader|NDArray|LightningModule|Generator)",
    ),
    (r"py:.*", r"(bool|int|float|str|bytes|dict|list|tuple|set|None|object|type|ValueError|optional|nn\.Module|.*NDArray.*)"),
]

html_theme = "pydata_sphinx_theme"
html_title = "fairat_lightning"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {"start": [], "which": []}  # sections of a single page
html_copy_source = False
html_theme_options = {
    "logo": {"text": "fairat_lightning"},
    "navbar_align": "left",
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
