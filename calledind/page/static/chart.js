// A line chart of the last minutes, by uPlot.

import {h} from "./dom.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const clock = (ticks) => ticks.map((tick) => new Date(tick * 1000).toTimeString().slice(0, 5));
const elapsed = (ticks) => ticks.map((tick) => `${tick} s`);

// lines: [[label, colour name], ...]; returns the element, update(seconds, ...values) and stop().
// `small`: a lower one, over seconds since something began.
export function chart(title, lines, {small = false} = {}) {
  const height = small ? 130 : 190;
  const place = h("div", {className: "chart", role: "img", "aria-label": title});
  const legend = h("ul", {className: "legend"}, lines.map(([label, name]) => {
    const entry = h("li", {}, h("span", {}, label));
    entry.style.color = `var(${name})`;
    entry.firstChild.style.color = "var(--soft)";
    return entry;
  }));
  const axis = () => ({stroke: colour("--soft"), grid: {stroke: colour("--line"), width: 1},
    ticks: {stroke: colour("--line"), width: 1}, font: "12px system-ui"});
  let plot = null;
  let data = [[], ...lines.map(() => [])];

  function draw() {
    plot?.destroy();
    plot = new uPlot({
      width: place.clientWidth || 300, height, cursor: {show: false}, legend: {show: false},
      scales: {x: {time: !small}, y: {range: (_, low, high) => [0, Math.max(1, Math.ceil(high * 1.1))]}},
      axes: [{...axis(), values: (_, ticks) => (small ? elapsed : clock)(ticks)},
        {...axis(), size: 42, space: small ? 18 : 30, incrs: [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]}],
      series: [{}, ...lines.map(([label, name]) => ({label, stroke: colour(name), width: 2,
        fill: lines.length === 1 ? `${colour(name)}22` : undefined, points: {show: false}}))],
    }, data, place);
  }

  const resized = new ResizeObserver(() => {
    if (plot && place.clientWidth) plot.setSize({width: place.clientWidth, height});
    else if (place.clientWidth) draw();
  });
  resized.observe(place);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", draw);
  return {
    element: h("div", {}, place, legend),
    update(...values) {
      data = values;
      plot?.setData(data);
    },
    stop() {
      resized.disconnect();
      dark.removeEventListener("change", draw);
      plot?.destroy();
    },
  };
}
