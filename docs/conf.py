"""The documentation site: `make site` builds it from the pages of this folder, with every link checked."""

project = "mixc"
author = "the mixc authors"
copyright = "the mixc authors; Apache-2.0"
extensions = ["myst_parser"]
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
html_theme = "furo"
html_title = "mixc"
html_copy_source = False
html_show_sphinx = False
exclude_patterns = ["README.md"]
nitpicky = True
# Pages are read on a forge, too, where `specs/...` and code are a click away; the site holds the pages alone, so such a link
# becomes one to a file beside them.
myst_all_links_external = False
suppress_warnings = ["misc.highlighting_failure"]
