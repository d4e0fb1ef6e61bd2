"""The script that draws charts in a page: Vega, Vega-Lite and vega-embed in one piece, from
vl-convert's own copy.
"""

from __future__ import annotations

from pathlib import Path

from embsearch import checksums, disk

FILE = "vega.js"


def name() -> str:
    """Return the bundle's folder, by version."""
    import vl_convert

    return f"vega-{vl_convert.get_vega_version()}-{vl_convert.get_vegalite_versions()[-1]}"


def script(cache: Path) -> str:
    """Return the bundle.

    Making it takes a second and a half, so it is kept in ``cache`` by version.
    """
    import vl_convert

    folder = cache / name()
    if not checksums.keep_if_whole(folder):
        made: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        disk.make_folder(cache)
        with disk.draft_of(folder) as draft:
            (draft / FILE).write_text(made, encoding="utf-8")
            checksums.put(draft, folder)
    return (folder / FILE).read_text(encoding="utf-8")
