"""How the page looks: light and dark, wide and narrow, on paper."""

STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5b6676;
  --rule: #e1e5eb; --c1: #2563c9; --c2: #d97706; --c3: #c2306b; --c4: #0f8a7a; --quiet: #8a94a3;
  --good: #16794a; --good-back: #e3f5ea; --bad: #b3261e; --bad-back: #fce8e6; --warn: #8a5a00;
  --warn-back: #fdf1d8; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161c; --card: #1b212a; --ink: #e6eaf0;
  --soft: #9aa6b5; --rule: #2d3642; --c1: #6ea8fe; --c2: #f5b14c; --c3: #f27aa8; --c4: #4fd1bd;
  --quiet: #7f8b9a; --good: #6fdca0; --good-back: #15301f; --bad: #ff9d94; --bad-back: #3a1a18;
  --warn: #f5c667; --warn-back: #33280f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 48px; }
header h1 { font-size: clamp(1.35rem, 4.5vw, 2rem); line-height: 1.2; margin: 0 0 4px;
  letter-spacing: -.01em; overflow-wrap: anywhere; }
header p { margin: 0; color: var(--soft); overflow-wrap: anywhere; }
.verdict { display: inline-block; margin: 14px 0 4px; padding: 5px 14px;
  border-radius: 999px; font-weight: 600; }
.verdict.good { color: var(--good); background: var(--good-back); }
.verdict.bad { color: var(--bad); background: var(--bad-back); }
.verdict.warn { color: var(--warn); background: var(--warn-back); }
h2 { font-size: 1.15rem; margin: 36px 0 10px; }
.tiles { display: grid; gap: 12px; margin: 18px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(150px, 44%), 1fr)); }
.tile, figure, .card { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; }
.tile { padding: 14px 16px; }
.tile b { display: block; font-size: clamp(1.3rem, 5vw, 1.75rem); line-height: 1.15; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .86rem; line-height: 1.3; display: block; margin-top: 3px; }
.charts { display: grid; gap: 16px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
figure { margin: 0; padding: 16px 14px 10px; min-width: 0; }
figcaption { margin: 0 4px 8px; line-height: 1.35; }
figcaption small { color: var(--soft); }
figcaption div { display: flex; flex-wrap: wrap; gap: 2px 16px; color: var(--soft);
  font-size: .84rem; margin-top: 3px; }
.key { display: inline-block; width: 18px; height: 0; border-top: 3px solid;
  margin-right: 6px; vertical-align: middle; }
.key.dashed { border-top-style: dashed; }
svg { display: block; width: 100%; height: auto; overflow: visible; font-family: inherit; }
text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
text.name, text.value { fill: var(--ink); }
.grid { stroke: var(--rule); stroke-width: 1; }
.line { fill: none; stroke: currentColor; stroke-linejoin: round; stroke-linecap: round; }
.line.dashed { stroke-dasharray: 5 5; }
.area { fill: currentColor; opacity: .16; }
.dot { fill: currentColor; stroke: var(--card); stroke-width: 1.5; }
.bar { fill: currentColor; }
.faint { opacity: .35; }
.c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); } .c4 { color: var(--c4); }
.quiet { color: var(--quiet); }
.card { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: 9px 14px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; font-size: .82rem; }
.words th, .words td, th.word, td.word { text-align: left; }
.words td { white-space: normal; min-width: 9rem; }
tr.bad td { color: var(--bad); }
tr.all td { font-weight: 600; }
td .good { color: var(--good); font-weight: 600; } td .bad { color: var(--bad); font-weight: 600; }
td .warn { color: var(--soft); font-weight: 600; }
ul { padding-left: 1.2em; margin: 8px 0; } li { margin: 4px 0; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; padding: 14px 18px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
footer { color: var(--soft); font-size: .86rem; margin-top: 32px; }
@media (max-width: 520px) { main { padding: 18px 12px 36px; } th, td { padding: 8px 10px; }
  text { font-size: 14px; } dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; } }
@media print { body { background: #fff; } figure, .card, .tile { break-inside: avoid; } }
"""
