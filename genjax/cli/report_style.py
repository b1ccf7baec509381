"""Style and script of the page of `genjax report`."""

STYLE = """
:root{color-scheme:light;--ink:#1c2430;--soft:#5b6673;--line:#e2e6ec;--back:#f5f6f8}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1360px;margin:0 auto;padding:16px}
h1{font-size:24px;margin:8px 0 12px;overflow-wrap:anywhere}
h2{font-size:18px;margin:0 0 10px}
h3{font-size:14px;margin:0 0 6px;overflow-wrap:anywhere}
section{background:#fff;border:1px solid var(--line);border-radius:10px;padding:16px;
margin:0 0 16px}
section h3:not(:first-of-type){margin-top:18px}
figure h3,.strip h3{margin-top:0!important}
nav{position:sticky;top:0;z-index:2;display:flex;flex-wrap:wrap;gap:4px 14px;padding:8px 0;
background:var(--back);max-height:30vh;overflow:auto}
nav label{display:inline-flex;align-items:center;gap:5px;cursor:pointer;white-space:nowrap}
.axis{display:inline-flex;gap:12px;margin-left:auto;color:var(--soft)}
.tag{display:inline-flex;align-items:center;gap:6px;font-weight:600;white-space:nowrap}
.tag i{width:11px;height:11px;border-radius:3px;flex:none}
.wide{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:5px 12px 5px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);
white-space:nowrap;font-weight:400}
td small{display:block;min-width:150px;max-width:340px;white-space:normal;overflow-wrap:anywhere}
tbody th:first-child,thead th:first-child{position:sticky;left:0;background:#fff;z-index:1;
max-width:45vw;overflow-wrap:anywhere;white-space:normal}
thead th{color:var(--soft);font-size:12px}
small{color:var(--soft);font-size:12px}
.charts{display:grid;gap:18px;grid-template-columns:repeat(auto-fill,minmax(min(360px,100%),1fr))}
figure{margin:0;min-width:0}
figure svg{display:block;width:100%;height:auto}
figcaption{color:var(--soft);font-size:12px;margin-top:2px}
.x-flops{display:none}
body.flops .x-flops{display:block}body.flops .x-images{display:none}
.strip{display:flex;gap:12px;overflow-x:auto;padding-bottom:6px}
.strip figure{flex:none}
.strip img{display:block;height:230px;width:auto;max-width:80vw;object-fit:contain;
image-rendering:pixelated;border:1px solid var(--line)}
details{margin-top:8px}
summary{cursor:pointer;color:var(--soft)}
ul{margin:6px 0;padding-left:18px;color:var(--soft);font-size:13px;overflow-wrap:anywhere}
pre{overflow:auto;max-height:420px;background:var(--back);padding:10px;border-radius:6px;
font-size:12px}
code{font-size:12px;overflow-wrap:anywhere}
.loud{margin:4px 0;padding:6px 10px;border-left:4px solid #c2410c;background:#fff4ed;
color:#7c2d12;font-size:13px}
.off{display:none!important}
@media(max-width:600px){main{padding:8px}section{padding:12px;border-radius:8px}.axis{margin:0}
nav{max-height:22vh}.strip img{height:190px}}
@media print{nav{display:none}section{break-inside:avoid}}
"""

SCRIPT = """
for (const box of document.querySelectorAll("input[data-run]")) {
  const i = box.dataset.run;
  const shown = document.querySelectorAll(`.run-${i},g[id^="run${i}-"]`);
  const change = () => shown.forEach((e) => e.classList.toggle("off", !box.checked));
  box.addEventListener("change", change);
  change();
}
for (const radio of document.querySelectorAll("input[name=x]")) {
  const change = () => radio.checked &&
    document.body.classList.toggle("flops", radio.value === "flops");
  radio.addEventListener("change", change);
  change();
}
"""
