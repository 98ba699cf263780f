"""HTML of one self-contained page: no script, nothing fetched, light or dark.

Every text goes through `text`, which escapes it.
"""

import base64
import html
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib import parse

SMALL = 200_000  # bytes

CSS = """
:root { color-scheme: light dark; --ink: #202124; --faint: #6b6f76; --line: #dcdfe4;
  --paper: #ffffff; --panel: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7ea; --faint: #9aa0a8;
  --line: #3a3d43; --paper: #17181b; --panel: #202226; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 68rem; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .7rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--line); }
p { margin: .3rem 0 .8rem; }
.faint, figcaption { color: var(--faint); font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  gap: .6rem; margin: 0; }
.tiles div { background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; padding: .5rem .7rem; }
.tiles dt { color: var(--faint); font-size: .82rem; }
.tiles dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.tiles small { color: var(--faint); font-size: .8rem; display: block; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .3rem 1.4rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
thead th { color: var(--faint); font-weight: 500; font-size: .9rem; }
tbody th { font-weight: 500; }
figure { margin: 0 0 1rem; break-inside: avoid; }
img { max-width: 100%; height: auto; display: block; background: #fff;
  border: 1px solid var(--line); border-radius: 4px; }
.thumbs { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr));
  gap: 1rem; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: .7rem .9rem; margin: 0 0 .8rem; font-size: .82rem; line-height: 1.45;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.groups { columns: 2 22rem; column-gap: 2rem; }
.groups section { break-inside: avoid; margin-bottom: .8rem; }
.groups table { width: 100%; table-layout: fixed; font-size: .82rem;
  font-family: ui-monospace, monospace; }
.groups td, .groups th { padding: .1rem .8rem .1rem 0; font-weight: 400; border: 0; }
.groups td { overflow-wrap: anywhere; }
.groups th { color: var(--faint); width: 50%; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } }
"""


class Markup(str):
    """HTML already; `text` leaves it as it is."""


def text(value: Any) -> str:
    """Any value as HTML text or attribute."""
    return value if isinstance(value, Markup) else html.escape(str(value), quote=True)


def link(name: str, place: str) -> Markup:
    """A name that leads to a place, which is relative to the page."""
    return Markup(f'<a href="{text(parse.quote(os.fsencode(place)))}">{text(name)}</a>')


def section(heading: str, body: str) -> str:
    """A heading with its body, or nothing where there is no body."""
    return f"<section><h2>{text(heading)}</h2>\n{body}</section>" if body else ""


def table(rows: Iterable[Sequence[Any]], head: Sequence[Any] = ()) -> str:
    """A table; the first cell of each row is its name."""
    body = "".join(
        f'<tr><th scope="row">{text(name)}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    if not body:
        return ""
    cells = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    top = f"<thead><tr>{cells}</tr></thead>" if cells else ""
    return f"<table>{top}<tbody>{body}</tbody></table>"


def groups(leaves: Iterable[tuple[str, str]]) -> str:
    """Dotted names and their values in columns, those of one first part together."""
    blocks: dict[str, list[tuple[str, str]]] = {}
    for name, value in leaves:
        first, dot, _ = name.partition(".")
        blocks.setdefault(first if dot else "", []).append((name, value))
    body = "".join(f"<section>{table(rows)}</section>" for rows in blocks.values())
    return f'<div class="groups">{body}</div>' if body else ""


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Figures at a glance, each (name, value, remark)."""
    body = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}"
        + (f"<small>{text(remark)}</small>" if remark else "")
        + "</dd></div>"
        for name, value, remark in items
    )
    return f'<dl class="tiles">{body}</dl>' if body else ""


def picture(path: Path, caption: str, *, link: str = "", width: int = 0) -> str:
    """A PNG file inside the page; if large, made smaller to `width` pixels if given."""
    reduce = width and path.stat().st_size > SMALL
    data = _smaller(path, width) if reduce else path.read_bytes()
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    image = f'<img src="{source}" alt="{text(caption)}">'
    if link:
        image = f'<a href="{text(parse.quote(os.fsencode(link)))}">{image}</a>'
    return f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"


def _smaller(path: Path, width: int) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    with Image.open(path) as image:
        image.thumbnail((width, 100 * width))
        image.save(out, format="PNG")
    return out.getvalue()


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page; empty parts are left out."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{CSS}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )
