"""Static HTML: what the report, the diff and `inspect --html` share.

A page is one file, with its style and its pictures inside: it opens from a disk or an object store, without a server, a
network or a script, in light and dark, by keyboard, and on paper. Templates (Jinja2, everything escaped) lie in the rooms
that use them and extend `page/base.html.j2`; plots are pure functions from numbers to SVG.
"""
