"""The HTML template of the audit's report; every value is escaped by the template engine."""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Audit of {{ audit.root_name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2126; background: #fff; max-width: 1080px; margin: 2rem auto;
  padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; border-bottom: 1px solid #d5dae0; padding-bottom: .3rem; }
h3 { font-size: 1.02rem; margin: 2rem 0 .2rem; }
p { margin: .35rem 0; }
table { border-collapse: collapse; margin: .8rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #e4e8ec; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: #56606a; font-size: .85rem; }
a { color: #0b57a4; }
.badge { display: inline-block; min-width: 4.2rem; text-align: center; border-radius: 3px; padding: 0 .45rem;
  font-size: .8rem; font-weight: 600; color: #fff; }
.error { background: #b3261e; } .warning { background: #9a6200; } .note { background: #5b6773; }
.muted { color: #56606a; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(245px, 1fr)); gap: .9rem; margin: .8rem 0; }
.example { border: 1px solid #dde2e7; border-radius: 5px; padding: .6rem; font-size: .85rem; overflow-wrap: anywhere; }
.example img, .nopicture { display: block; width: 100%; height: 150px; object-fit: contain; background: #f1f3f5;
  border-radius: 3px; }
.nopicture { display: flex; align-items: center; justify-content: center; color: #7a838c; }
.example code { font-size: .82rem; }
.text { margin: .35rem 0 0; color: #39424b; }
mark { background: #ffd9d6; color: #8c1d18; border-radius: 2px; }
.bars { display: flex; align-items: flex-end; height: 34px; gap: 1px; }
.bars i { display: block; width: 4px; background: #4b80b5; }
</style>
</head>
<body>
<h1>Audit of {{ audit.root_name }}</h1>
<p class="muted">
{% if not audit.defects %}Nothing was found.{% else %}
{% for severity, count in audit.findings.items() %}
{{ count }} {{ severity }}{{ "s" if count != 1 }}{{ ", " if not loop.last else "." }}
{%- endfor %}
{% endif %}

An error stops a build unless its filter is named; a warning is kept unless filtered; a note is worth knowing.</p>

<h2>What is there</h2>
<table>
<tr><th>split</th><th>platform</th><th class="n">images</th><th class="n">places</th><th class="n">captions</th>
<th class="n">mean length</th><th class="n">5 to 95 %</th><th>lengths, 0 to {{ longest }} characters</th>
<th class="n">boxes / regions</th></tr>
{% for row in contents %}
<tr><td>{{ row.split }}</td><td>{{ row.platform }}</td><td class="n">{{ row.images }}</td>
<td class="n">{{ row.places }}</td><td class="n">{{ row.captions }}</td>
<td class="n">{{ row.lengths.mean_chars if row.lengths else "" }}</td>
<td class="n">{% if row.lengths %}{{ row.lengths.p05_chars }} to {{ row.lengths.p95_chars }}{% endif %}</td>
<td><div class="bars">{% for height in row.heights %}<i style="height:{{ height }}px"></i>{% endfor %}</div></td>
<td class="n">{{ row.boxes }} / {{ row.regions }}</td></tr>
{% endfor %}
</table>
{% if audit.statistics.image_sizes_px %}
<p class="muted">Picture sizes, the most frequent:
{% for platform, sizes in audit.statistics.image_sizes_px.items() %}
{{ platform }}:
{%- for size, count in sizes.items() %} {{ size }} px ({{ count }}){{ "," if not loop.last }}{% endfor %}
{{- "; " if not loop.last }}
{% endfor %}</p>
{% endif %}

<h2>What was found</h2>
{% if defects %}
<table>
<tr><th></th><th>defect</th><th class="n">findings</th><th class="n">images or places</th></tr>
{% for name, defect in defects %}
<tr><td><span class="badge {{ defect.severity }}">{{ defect.severity }}</span></td>
<td><a href="#{{ name }}">{{ name }}</a></td><td class="n">{{ defect.count }}</td>
<td class="n">{{ defect.images }}</td></tr>
{% endfor %}
</table>
{% endif %}
<p class="muted">Looked for and not found: {{ absent | join(", ") or "nothing" }}.</p>

{% for name, defect in defects %}
<h3 id="{{ name }}"><span class="badge {{ defect.severity }}">{{ defect.severity }}</span> {{ name }}</h3>
<p>{{ defect.what }}</p>
<p class="muted">{{ defect.count }} finding{{ "s" if defect.count > 1 }} on {{ defect.images }}
{{ "place" if defect.scope == "place" else "image" }}{{ "s" if defect.images > 1 }}.
What to do: {{ defect.remedy }}.</p>
<div class="examples">
{% for example in defect.cards %}
<div class="example">
{% if example.picture %}<img alt="" src="data:image/jpeg;base64,{{ example.picture }}">
{% elif defect.scope != "place" %}<div class="nopicture">no picture</div>{% endif %}
<code>{{ example.image_id or "" }}</code> <span class="muted">{{ example.split or "" }}</span>
<div>{{ example.detail }}</div>
{% if example.parts %}<p class="text">
{%- for part, marked in example.parts -%}
{% if marked %}<mark>{{ part }}</mark>{% else %}{{ part }}{% endif %}
{%- endfor -%}
</p>{% endif %}
</div>
{% endfor %}
</div>
{% endfor %}
</body>
</html>
"""
