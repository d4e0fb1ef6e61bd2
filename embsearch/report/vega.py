"""The script that draws charts in a page: Vega, Vega-Lite and vega-embed in one piece, from
vl-convert's own copy.
"""

from __future__ import annotations

from pathlib import Path

from embsearch import disk


def name() -> str:
    """Return the bundle's file, by version."""
    import vl_convert

    return f"vega-{vl_convert.get_vega_version()}-{vl_convert.get_vegalite_versions()[-1]}.js"


def script(cache: Path) -> str:
    """Return the bundle.

    Making it takes a second and a half, so it is kept in ``cache`` by version.
    """
    import vl_convert

    path = cache / name()
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        made: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    disk.make_folder(cache)
    with disk.whole(path) as draft:
        draft.write_text(made, encoding="utf-8")
    return made
