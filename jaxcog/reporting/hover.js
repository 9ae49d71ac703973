"use strict";
// Values under the pointer (or arrow keys), and the switch between linear and log scale.
const tip = document.createElement("div");
tip.className = "tip";
tip.setAttribute("role", "status");
tip.hidden = true;
document.body.append(tip);

const NS = document.documentElement.querySelector("svg")?.namespaceURI;

function node(name, className) {
  const made = document.createElementNS(NS, name);
  made.setAttribute("class", className);
  return made;
}

function nearest(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
}

function text(value) {
  const size = Math.abs(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return size >= 1e-3 && size < 1e6 ? String(+value.toPrecision(4)) : value.toExponential(2);
}

for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg");
  const holder = chart.querySelector("script");
  if (!svg || !holder) continue;
  const data = JSON.parse(holder.textContent);
  const [left, top, right, bottom] = data.box;
  const longest = data.series.reduce((a, b) => (b.x.length > a.x.length ? b : a));
  const guide = node("path", "guide");
  const dots = data.series.map((_, i) => node("circle", `spot s${i % 8}`));
  const marks = node("g", "marks");
  marks.append(guide, ...dots);
  let at = null;

  const across = (x) => left + ((x - data.x[0]) / (data.x[1] - data.x[0])) * (right - left);
  const down = (y) => {
    const kind = chart.dataset.scale;
    const [low, high] = data.y[kind];
    const f = kind === "log" ? Math.log(y / low) / Math.log(high / low) : (y - low) / (high - low);
    return bottom - f * (bottom - top);
  };

  function hide() {
    marks.remove();
    tip.hidden = true;
  }

  function show(x) {
    // The point of any series that is nearest decides which step is shown.
    let snap = null;
    for (const s of data.series) {
      if (!s.x.length) continue;
      const candidate = s.x[nearest(s.x, x)];
      if (snap === null || Math.abs(candidate - x) < Math.abs(snap - x)) snap = candidate;
    }
    at = snap;
    svg.append(marks);
    const px = across(snap);
    guide.setAttribute("d", `M${px} ${top}V${bottom}`);
    tip.replaceChildren();
    const head = document.createElement("b");
    head.textContent = `${data.label} ${text(snap)}`;
    tip.append(head);
    data.series.forEach((s, i) => {
      const j = s.x.length ? nearest(s.x, snap) : -1;
      dots[i].style.display = j < 0 ? "none" : "";
      if (j < 0) return;
      dots[i].setAttribute("cx", across(s.x[j]));
      dots[i].setAttribute("cy", down(s.y[j]));
      dots[i].setAttribute("r", 3.5);
      const row = document.createElement("span");
      row.className = `s${i % 8}`;
      const value = document.createElement("em");
      value.textContent = text(s.y[j]);
      row.append(document.createElement("i"), s.name, value);
      tip.append(row);
    });
    tip.hidden = false;
    const area = svg.getBoundingClientRect();
    const x0 = area.left + (px / svg.viewBox.baseVal.width) * area.width;
    const beside = x0 + 14 + tip.offsetWidth > innerWidth ? x0 - 14 - tip.offsetWidth : x0 + 14;
    tip.style.left = `${Math.max(4, beside) + scrollX}px`;
    tip.style.top = `${area.top + 8 + scrollY}px`;
  }

  const move = (event) => {
    const area = svg.getBoundingClientRect();
    const px = ((event.clientX - area.left) / area.width) * svg.viewBox.baseVal.width;
    const f = Math.min(1, Math.max(0, (px - left) / (right - left)));
    show(data.x[0] + f * (data.x[1] - data.x[0]));
  };
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerdown", move);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const here = at === null ? -1 : nearest(longest.x, at);
    show(longest.x[Math.min(longest.x.length - 1, Math.max(0, here + step))]);
  });

  const button = chart.querySelector(".switch");
  if (button) {
    const label = () => {
      const log = chart.dataset.scale === "log";
      button.textContent = log ? "log" : "linear";
      button.setAttribute("aria-label", `Scale: ${button.textContent}. Change it.`);
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      chart.dataset.scale = chart.dataset.scale === "log" ? "linear" : "log";
      hide();
      label();
    });
    label();
  }
}
