"""The colours of reports, light and dark, and the style of their pages."""

from __future__ import annotations

COLOURS = {
    "paper": ("#ffffff", "#15181d"),
    "ink": ("#1d2129", "#dde2ea"),
    "soft": ("#5c6470", "#9aa4b2"),
    "grid": ("#e3e6ea", "#2c323b"),
    "first": ("#8fc7e8", "#3f6fb5"),
    "last": ("#7a1fa2", "#f2b84b"),
    "heat": ("#3b8fd0", "#2f78bd"),
    "yes": ("#1a7340", "#67cd87"),
    "no": ("#b3401c", "#f79a62"),
    "series-0": ("#1f6fb4", "#6cb2f0"),
    "series-1": ("#d1581f", "#f79a62"),
    "series-2": ("#2a8a4a", "#67cd87"),
    "series-3": ("#a3308f", "#e587d4"),
    "series-4": ("#8a6d00", "#e0c23f"),
    "series-5": ("#4d5866", "#aeb8c6"),
}
"""By name, for light and for dark paper. A cell of a heat map mixes ``heat`` into the paper, one
hue by lightness alone, so it reads the same without colour vision and keeps its ink legible."""

SERIES = 6
"""Colours of series that have no order."""

LIGHT = {name: light for name, (light, _) in COLOURS.items()}
"""For pictures that cannot follow the page."""

_VARIABLES = " ".join(f"--{n}: light-dark({a}, {b});" for n, (a, b) in COLOURS.items())

CSS = f"""
:root {{ color-scheme: light dark; {_VARIABLES} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }}
h1 {{ font-size: 1.4rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0;
  overflow-wrap: anywhere; }}
th {{ font-weight: normal; color: var(--soft); overflow-wrap: normal; }}
.wide {{ overflow-x: auto; }}
.charts {{ display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }}
figure {{ margin: 0; min-width: 0; }}
figcaption {{ color: var(--soft); }}
svg {{ display: block; width: 100%; height: auto; }}
svg text {{ font-family: system-ui, sans-serif !important; }}
pre {{ margin: .25rem 0 1rem; padding: .6rem; border: 1px solid var(--grid); border-radius: 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; }}
footer {{ margin-top: 2rem; color: var(--soft); }}
"""

SWEEP_CSS = """
h1 + p, section > p { margin: .25rem 0; }
section { border-top: 1px solid var(--grid); margin-top: 2rem; }
h2 { font-size: 1.25rem; } h3 { font-size: 1.05rem; margin: 1.5rem 0 .4rem; }
p { max-width: 60rem; } .soft { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; } a { color: inherit; }
.numbers { font-variant-numeric: tabular-nums; }
.numbers td, .numbers th { white-space: nowrap; overflow-wrap: normal; padding-right: 1.2rem; }
.numbers td.number, .numbers th.number { text-align: right; }
.numbers tr:hover td { background: color-mix(in oklab, var(--paper) 92%, var(--ink)); }
.numbers thead th { border-bottom: 1px solid var(--grid); }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
td { overflow-wrap: break-word; }
.wide td, .wide th { white-space: nowrap; }
@media (max-width: 40rem) {
  .findings tr:first-child { display: none; }
  .findings tr, .findings td { display: block; padding: 0 0 .1rem; }
  .findings tr { padding-bottom: .8rem; }
}
.heat { font-variant-numeric: tabular-nums; border-spacing: 2px; border-collapse: separate; }
.heat td { text-align: center; padding: .35rem .7rem; min-width: 4.5rem; border-radius: 3px;
  white-space: nowrap; vertical-align: middle;
  background: color-mix(in oklab, var(--paper), var(--heat) calc(var(--share) * 68%)); }
.heat td.none { background: none; color: var(--soft); }
.heat td.best { outline: 2px solid var(--ink); outline-offset: -2px; }
.heat th { vertical-align: middle; white-space: nowrap; padding: .2rem .7rem .2rem 0; }
.heat thead th { text-align: center; padding: .2rem .5rem; }
.heat small { display: block; opacity: .8; }
.scale { display: inline-block; width: 8rem; height: .7em; border-radius: 3px;
  border: 1px solid var(--grid); vertical-align: baseline; background: linear-gradient(to right,
  var(--paper), color-mix(in oklab, var(--paper), var(--heat) 68%)); }
.yes { color: var(--yes); } .no { color: var(--no); } .mark { white-space: nowrap; }
"""
