"""The page that shows prompts and their pictures by category, beside the pictures themselves."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

PAGE = "index.html"
_STYLE = """
body { font: 14px sans-serif; margin: 1em; } nav a { margin-right: 1em; }
section { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 12px; }
figure { margin: 0; } img { width: 100%; image-rendering: pixelated; }
small { color: #666; } h2 { border-top: 1px solid #ccc; padding-top: .5em; }
"""


def write(folder: Path, prompts: Sequence[Any], drawn: Any, title: str) -> None:
    """Writes index.html into the folder of pictures 000000.png, ...: one section a category.

    `prompts`: `genjax.data.prompts.Prompt`s; `drawn`: `genjax.cli.prompts.Drawn`. The page names
    the pictures relatively, so the folder may be moved or served as it is.
    """
    sections: dict[str, list[str]] = {}
    for i, prompt in enumerate(prompts):
        notes = [prompt.challenge, prompt.note]
        if drawn.scores is not None:
            best, count = drawn.scores[i, drawn.kept[i]], drawn.scores.shape[1]
            notes.append(f"score {best:.3f}, candidate {drawn.kept[i]} of {count}")
        small = escape(" · ".join(note for note in notes if note))
        sections.setdefault(prompt.category or "Prompts", []).append(
            f'<figure><img loading="lazy" src="{quote(f"{i:06d}.png")}" alt="">'
            f"<figcaption>{escape(prompt.text)}<br><small>{small}</small></figcaption></figure>"
        )
    names = sorted(sections)
    links = "".join(
        f'<a href="#c{k}">{escape(name)} ({len(sections[name])})</a>'
        for k, name in enumerate(names)
    )
    body = "\n".join(
        f'<h2 id="c{k}">{escape(name)}</h2>\n<section>\n{chr(10).join(sections[name])}\n</section>'
        for k, name in enumerate(names)
    )
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        f"<nav>{links}</nav>\n{body}\n</body></html>\n"
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
