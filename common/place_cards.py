"""A located answer as HTML: verdict, map with pins, a card for each place, gate bars, evidence for each sentence. This
file also travels in the Space, so it reads the answer as JSON (`LocateResult.as_json(thumbnails=True)`).
"""

from __future__ import annotations

from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined, Template

from pemoe.common.maps import Box, MapPoint, draw_map

STYLE = """
.pemoe-answer { --pa-line: #8885; --pa-soft: #8881; --pa-bar: light-dark(#2f68ab, #7ab5f5); --pa-chosen: #d98a00;
  --pa-bad: light-dark(#b3261e, #ff8a80); display: grid; grid-template-columns: minmax(0, 1fr);
  gap: 1rem; overflow-wrap: anywhere; font-size: 15px; line-height: 1.5; }
.pemoe-answer p, .pemoe-answer h2, .pemoe-answer h3, .pemoe-answer ul, .pemoe-answer dl { margin: 0; padding: 0; }
.pemoe-answer h2 { font-size: 1.05rem; border: 0; margin: 1rem 0 .4rem; }
.pemoe-answer .verdict { border-left: 5px solid var(--pa-bar); padding: .5rem .8rem; background: var(--pa-soft);
  border-radius: 0 8px 8px 0; }
.pemoe-answer .verdict.elsewhere { border-color: var(--pa-bad); }
.pemoe-answer .verdict strong { font-size: 1.1rem; font-weight: 600; display: block; }
.pemoe-answer .said { list-style: none; display: flex; flex-wrap: wrap; gap: .35rem; margin-top: .4rem; }
.pemoe-answer .said li { background: var(--pa-soft); border: 1px solid var(--pa-line); border-radius: 1rem;
  padding: 0 .7rem; margin: 0; }
.pemoe-answer .places { display: grid; grid-template-columns: minmax(0, 1fr); gap: .75rem; align-content: start; }
.pemoe-answer .place { border: 1px solid var(--pa-line); border-radius: 10px; padding: .7rem .8rem;
  scroll-margin: 1rem; }
.pemoe-answer .place.chosen, .pemoe-answer .place:target { border-color: var(--pa-chosen);
  box-shadow: 0 0 0 2px var(--pa-chosen); }
.pemoe-answer .place h3 { font-size: 1.05rem; display: flex; flex-wrap: wrap;
  justify-content: space-between; gap: .5rem; }
.pemoe-answer .where { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 .5rem; font-size: .9rem; }
.pemoe-answer .where > a, .pemoe-answer .where > button { padding: .2rem 0; color: var(--pa-bar); font: inherit;
  display: inline-flex; align-items: center;
   background: none; border: 0; text-decoration: underline; cursor: pointer; min-height: 28px; }
.pemoe-answer .seen { display: flex; gap: .5rem; overflow-x: auto; list-style: none; padding: .4rem 0; }
.pemoe-answer .seen li { flex: none; width: 7rem; font-size: .8rem; margin: 0; }
.pemoe-answer .seen img { width: 7rem; height: 7rem; object-fit: cover; border-radius: 6px; display: block; margin: 0;
  background: var(--pa-soft); }
.pemoe-answer .bars { display: grid; grid-template-columns: minmax(0, max-content) minmax(4rem, 1fr) max-content;
  gap: .15rem .7rem; align-items: center; max-width: 34rem; }
.pemoe-answer .evidence { grid-template-columns: minmax(0, 3fr) minmax(3rem, 2fr) max-content; }
.pemoe-answer .bars dt, .pemoe-answer .bars dd { margin: 0; font-weight: normal; }
.pemoe-answer .track { background: var(--pa-soft); border-radius: 4px; height: .7rem; }
.pemoe-answer .track span { display: block; height: 100%; min-width: 2px; border-radius: 4px;
  background: var(--pa-bar); }
.pemoe-answer .negated .track span, .pemoe-answer .track.negated span { background: var(--pa-bad); }
.pemoe-answer .not { color: var(--pa-bad); font-weight: 600; }
.pemoe-answer .muted { opacity: .75; font-size: .9rem; }
.pemoe-answer :focus-visible { outline: 3px solid var(--pa-chosen); outline-offset: 2px; }
@media (min-width: 900px) {
  .pemoe-answer { grid-template-columns: minmax(0, 11fr) minmax(0, 9fr); }
  .pemoe-answer .verdict { grid-column: 1 / -1; }
  .pemoe-answer .aside { position: sticky; top: 1rem; align-self: start; } }
"""

# a pin shows its card, a card its pin; coordinates are copied. Without it pins are links to their cards.
SCRIPT = """
(() => {
  const choose = (rank, scroll) => {
    document.querySelectorAll('.pemoe-answer .place, .pemoe-map .pin').forEach(one =>
      one.classList.toggle('chosen', one.dataset.rank === rank));
    const card = document.getElementById('place-' + rank);
    if (card && scroll) { card.scrollIntoView({block: 'nearest'}); card.focus({preventScroll: true}); }
  };
  const copy = async (button) => {
    const text = button.dataset.copy;
    try { await navigator.clipboard.writeText(text); }
    catch {
      const area = Object.assign(document.createElement('textarea'), {value: text});
      document.body.append(area); area.select(); document.execCommand('copy'); area.remove(); button.focus();
    }
    button.textContent = 'Copied';
  };
  document.addEventListener('click', event => {
    const pin = event.target.closest('.pemoe-map .pin'), button = event.target.closest('.pemoe-answer .copy');
    if (pin) { event.preventDefault(); choose(pin.dataset.rank, true); }
    else if (button) copy(button);
    else { const card = event.target.closest('.pemoe-answer .place'); if (card) choose(card.dataset.rank, false); }
  });
})();
"""

_ANSWER = """
<div class="pemoe-answer">
<section class="verdict{{ " elsewhere" if is_elsewhere }}" aria-live="polite">
<strong>{{ verdict }}</strong>
<p class="muted">{{ searched }}</p>
{% for note in notes %}<p class="muted">{{ note }}</p>{% endfor %}
<ul class="said" aria-label="What was asked">{% for text in texts %}<li>{{ text }}</li>{% endfor %}</ul>
</section>
<section class="aside">
{{ map | safe }}
{% if weights | length > 1 %}
<h2>How much each expert counts</h2>
<dl class="bars gate">{% for name, weight in weights.items() %}
<dt>{{ name }}</dt><dd class="track" aria-hidden="true">
<span style="width:{{ "%.1f" | format(100 * weight) }}%"></span></dd>
<dd>{{ "%.0f" | format(100 * weight) }} %</dd>{% endfor %}</dl>
{% endif %}
</section>
<section class="places" aria-label="Places, best first">
{% for place in places %}
<article class="place" id="place-{{ loop.index }}" data-rank="{{ loop.index }}" tabindex="-1">
<h3><span>{{ loop.index }}. {{ place.name }}</span>{% if place.probability is not none %}
<span class="probability">{{ place.probability | percent }}</span>{% endif %}</h3>
{% if place.latitude_deg is not none %}
{% set degrees = "%.6f, %.6f" | format(place.latitude_deg, place.longitude_deg) %}
<p class="where"><span class="degrees">{{ degrees }}</span>
<button type="button" class="copy" data-copy="{{ degrees }}">Copy</button>
<a href="geo:{{ degrees | replace(" ", "") }}">geo:</a>
<a href="{{ place | street_map }}" target="_blank" rel="noopener noreferrer">OpenStreetMap</a></p>
{% else %}<p class="where">No coordinates are known.</p>{% endif %}
<p class="muted">score {{ "%.3f" | format(place.score) }} · seen from {{ place.platforms | join(", ") }}</p>
{% if place.pictures %}<ul class="seen" tabindex="0" aria-label="Pictures">{% for one in place.pictures[:6] %}
<li>{% if one.thumbnail | default("") | is_picture %}
<img src="{{ one.thumbnail }}" alt="{{ one.platform }} picture of {{ place.name }}">{% endif %}
{{ one.platform }}<br>{{ "%.3f" | format(one.score) }}
{%- if one.captured_at %}<br>{{ one.captured_at[:10] }}{% endif %}</li>
{% endfor %}</ul>{% endif %}
{% if place.evidence %}<dl class="bars evidence">{% for one in place.evidence %}
<dt{% if one.negated %} class="not"{% endif %}>{{ one.sentence }}</dt>
<dd class="track{{ " negated" if one.negated }}" aria-hidden="true">
<span style="width:{{ one.support | as_width }}%"></span></dd>
<dd>{{ "%+.1f" | format(one.support) }} σ</dd>{% endfor %}</dl>{% endif %}
</article>
{% else %}<p>No picture of this gallery lies in what was searched.</p>{% endfor %}
{% if has_evidence %}<p class="muted">σ: how far a sentence fits above what is usual in this gallery, in standard
deviations; what a negated sentence fits counts against the place.</p>{% endif %}
</section>
</div>
"""
_VERDICTS = {
    "found": "Most likely: {name}",
    "not in this gallery": "Probably not in this gallery. The nearest:",
    "not calibrated": "Best match: {name}",
}


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": _percent,
        "street_map": _street_map,
        "as_width": lambda support: f"{min(max(support, 0) / 4, 1):.0%}"[:-1],
        "is_picture": lambda address: address.startswith("data:image/"),
    }
    return environment.from_string(_ANSWER)


def render_answer(
    result: dict[str, Any],
    area: Box | None = None,
    extent: Box | None = None,
    tiles: str | None = None,
    attribution: str = "",
) -> str:
    """The answer to one query as HTML for a page that has `STYLE` and, better, `SCRIPT`.

    Args:
        result: `LocateResult.as_json(thumbnails=True)`.
        area, extent, tiles, attribution: see `draw_map`.

    Returns:
        One element; everything that the answer says is escaped.
    """
    places = result["places"]
    points = [
        MapPoint(rank, _title(place), place["latitude_deg"], place["longitude_deg"])
        for rank, place in enumerate(places, 1)
    ]
    return _template().render(
        result | {"weights": result["gate_weights"]},
        verdict=describe_verdict(result),
        searched=_searched(result),
        is_elsewhere=result["verdict"] == "not in this gallery" or not places,
        has_evidence=any(place["evidence"] for place in places),
        map=draw_map(points, area=area, extent=extent, tiles=tiles, attribution=attribution),
    )


def describe_verdict(result: dict[str, Any]) -> str:
    """The verdict as a line of words.

    Example:
        >>> describe_verdict({"places": [], "verdict": "found", "probability_elsewhere": None})
        'Nothing to show'
    """
    if not result["places"]:
        return "Nothing to show"
    best, elsewhere = result["places"][0], result["probability_elsewhere"]
    words = _VERDICTS.get(result["verdict"], "{name}").format(name=best["name"])
    if result["verdict"] == "not in this gallery" and elsewhere is not None:
        return words.replace(". ", f" ({_percent(elsewhere)}). ", 1)
    return words if best["probability"] is None else f"{words} ({_percent(best['probability'])})"


def _searched(result: dict[str, Any]) -> str:
    elsewhere = result["probability_elsewhere"]
    said = "" if elsewhere is None else f" That the place is not among theirs: {_percent(elsewhere)}."
    return f"{result['pictures_searched']:,} pictures were searched.{said}"


def _percent(probability: float) -> str:
    """A probability in percent that never claims certainty."""
    if probability >= 0.995:
        return "over 99 %"
    return "under 1 %" if probability < 0.005 else f"{probability:.0%}".replace("%", " %")


def _title(place: dict[str, Any]) -> str:
    share = "" if place["probability"] is None else f", {_percent(place['probability'])}"
    where = place["latitude_deg"], place["longitude_deg"]
    return f"{place['name']}{share}" + ("" if None in where else f", {where[0]:.5f}, {where[1]:.5f}")


def _street_map(place: dict[str, Any]) -> str:
    """The address of a place on OpenStreetMap: a link, nothing that the page asks for."""
    latitude, longitude = (quote(f"{place[name]:.6f}") for name in ("latitude_deg", "longitude_deg"))
    return f"https://www.openstreetmap.org/?mlat={latitude}&mlon={longitude}#map=17/{latitude}/{longitude}"
