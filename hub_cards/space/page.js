// Draws a box on the map and fills the fields of the area with its degrees; the search then runs.
(() => {
  let drawing = false, start = null, rect = null;
  const map = () => document.querySelector('.pemoe-map');
  const field = name => document.querySelector(`#pemoe-${name} input, #pemoe-${name} textarea`);
  const whenThere = async (name) => {  // a closed accordion holds no fields
    if (!field(name)) document.querySelector('#pemoe-where button').click();
    for (let tries = 0; tries < 100 && !field(name); tries += 1) await new Promise(done => setTimeout(done, 50));
    return field(name);
  };
  const fill = async (name, value) => {
    const input = await whenThere(name);
    Object.getOwnPropertyDescriptor(Object.getPrototypeOf(input), 'value').set.call(input, value);
    for (const kind of ['input', 'change', 'blur']) input.dispatchEvent(new Event(kind, {bubbles: true}));
  };
  const point = event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(map().getScreenCTM().inverse());
    const size = map().viewBox.baseVal;
    return {x: Math.min(Math.max(at.x, 0), size.width), y: Math.min(Math.max(at.y, 0), size.height)};
  };
  const degrees = at => {
    const {west, north, pxPerLon, pxPerLat} = map().dataset;
    const longitude = +west + at.x / pxPerLon, latitude = +north - at.y / pxPerLat;
    return {latitude: Math.min(Math.max(latitude, -90), 90), longitude: ((longitude + 180) % 360 + 360) % 360 - 180};
  };
  const arm = on => {
    drawing = on;
    const button = document.querySelector('#pemoe-draw');
    if (button) button.setAttribute('aria-pressed', on);
    if (map()) map().classList.toggle('drawing', on);
  };
  document.addEventListener('click', event => {
    if (event.target.closest('#pemoe-draw')) arm(!drawing);
  });
  document.addEventListener('pointerdown', event => {
    if (!drawing || !event.target.closest('.pemoe-map')) return;
    event.preventDefault();
    start = point(event);
    map().querySelectorAll('.area').forEach(one => one.remove());
    rect = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
    rect.setAttribute('class', 'area');
    map().append(rect);
  });
  const corners = event => {
    const to = point(event);
    return [Math.min(start.x, to.x), Math.min(start.y, to.y), Math.max(start.x, to.x), Math.max(start.y, to.y)];
  };
  document.addEventListener('pointermove', event => {
    if (!start) return;
    const [left, top, right, low] = corners(event);
    Object.entries({x: left, y: top, width: right - left, height: low - top}).forEach(one => rect.setAttribute(...one));
  });
  document.addEventListener('pointerup', async event => {
    if (!start) return;
    const [left, top, right, low] = corners(event);
    start = null;
    arm(false);
    if (right - left < 4 || low - top < 4) { rect.remove(); return; }
    const northwest = degrees({x: left, y: top}), southeast = degrees({x: right, y: low});
    const box = {south: southeast.latitude, west: northwest.longitude, north: northwest.latitude,
      east: southeast.longitude};
    for (const [name, value] of Object.entries(box)) await fill(name, value.toFixed(6));
    setTimeout(() => document.querySelector('#pemoe-redo').click(), 200);
  });
  document.addEventListener('pointercancel', () => { start = null; arm(false); });
  document.addEventListener('touchmove', event => { if (start) event.preventDefault(); }, {passive: false});
})();
