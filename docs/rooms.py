"""The picture of the rooms in ``architecture.md``, drawn from the imports: ``python docs/rooms.py`` writes it anew.

An arrow is left out where a longer way says the same (transitive reduction), so that the picture can be read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grimp
import networkx as nx

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: written by docs/rooms.py -->", "<!-- end of rooms -->"
OPENED = ("verl_ext", "eval")
"""Folders whose rooms are drawn one by one; the others are one box."""
FOLDERS = ("rollout", "rewards", "data_construction", *OPENED)


def rooms() -> nx.DiGraph:
    """Rooms and the imports between them; a node is ``folder`` or ``folder.room``."""
    graph = grimp.build_graph(*FOLDERS, cache_dir=None)
    out = nx.DiGraph()
    for module in graph.modules:
        room = room_of(module)
        out.add_node(room)
        for imported in graph.find_modules_directly_imported_by(module):
            if room_of(imported) != room:
                out.add_edge(room, room_of(imported))
    out.remove_nodes_from(OPENED)  # their own __init__, which holds nothing
    return out


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] in OPENED else parts[0]


def picture() -> str:
    """Mermaid source: a box a folder, an arrow from whoever imports to what is imported."""
    graph = nx.transitive_reduction(rooms())
    lines = ["```mermaid", "flowchart TD"]
    for folder in reversed(FOLDERS):
        inside = sorted(n for n in graph if n.startswith(f"{folder}."))
        if not inside:
            lines.append(f"  {folder}")
            continue
        lines += [f"  subgraph {folder}", *(f"    {n}[{n.partition('.')[2]}]" for n in inside), "  end"]
    lines += [f"  {a} --> {b}" for a, b in sorted(graph.edges)]
    return "\n".join([*lines, "```"])


def page(text: str) -> str:
    """``text`` with the picture as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{picture()}\n{END}{after}"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
