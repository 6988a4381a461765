// Draws the charts of the page, and fills the panels that follow the cursor.
"use strict";
const CONFIG = {
  responsive: true, displaylogo: false, doubleClick: "reset",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendDataToCloud"],
};
const PRINTED = 660; // pixels across a sheet
const charts = [];

for (const chart of document.querySelectorAll(".chart")) {
  const name = chart.id.slice("chart-".length);
  const { chart: { data, layout }, readout } = JSON.parse(document.getElementById(`data-${name}`).textContent);
  charts.push(chart);
  Plotly.newPlot(chart, data, layout, CONFIG).then(() => {
    if (readout) follow(chart, document.getElementById(`panel-${name}`), unpacked(readout));
    chart.dataset.drawn = "yes";
  });
}
addEventListener("beforeprint", () => charts.forEach((chart) => Plotly.relayout(chart, { width: PRINTED })));
addEventListener("afterprint", () => charts.forEach((chart) => Plotly.relayout(chart, { width: null, autosize: true })));

function unpacked(readout) {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return {
    ...readout,
    shares: new Uint16Array(bytes(readout.shares).buffer),
    excluded: bytes(readout.excluded),
    status: bytes(readout.status),
    certainty: bytes(readout.certainty),
  };
}

function follow(chart, panel, known) {
  const sliders = [...panel.querySelectorAll("input")];
  const rows = [...panel.querySelectorAll("tbody tr")];
  const lengths = known.axes.map((axis) => axis.values.length);
  let held = false;

  function show(at) {
    const point = at.reduce((flat, k, axis) => flat * lengths[axis] + k, 0);
    const values = at.map((k, axis) => known.axes[axis].values[k]);
    sliders.forEach((slider, axis) => {
      slider.value = at[axis];
      slider.setAttribute("aria-valuetext", written(values[axis]));
      slider.previousElementSibling.textContent = written(values[axis]);
    });
    panel.querySelector(".where").textContent =
      known.axes.map((axis, k) => `${axis.label} = ${written(values[k])}`).join(", ") + (held ? " (held)" : "");
    rows.forEach((row, group) => {
      const code = known.shares[point * rows.length + group];
      const missing = code === known.missing;
      const share = code / known.unit;
      const bit = point * known.width * 8 + group;
      const out = !missing && (known.excluded[bit >> 3] >> (7 - (bit & 7))) & 1;
      row.classList.toggle("out", Boolean(out));
      row.querySelector(".share").textContent = missing ? "not found" : out ? "excluded" : `${(100 * share).toFixed(2)} %`;
      row.querySelector(".bar span").style.width = missing || out ? "0" : `${100 * share}%`;
    });
    panel.querySelector(".status").textContent =
      `Status: ${known.statuses[known.status[point]]}. ${known.certainties[known.certainty[point]]}.`;
    const lines = values.map((value, axis) => axis === 0
      ? { type: "line", xref: "x", yref: "paper", x0: value, x1: value, y0: 0, y1: 1 }
      : { type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: value, y1: value });
    Plotly.relayout(chart, { shapes: lines.map((line) => ({ ...line, line: { color: "#d55e00", width: 1.5 } })) });
  }

  const nearest = (values, value) =>
    values.reduce((best, other, k) => (Math.abs(other - value) < Math.abs(values[best] - value) ? k : best), 0);
  // From where the pointer is, not from the points of the event, which lag behind a quick tap.
  const under = ({ event }) => known.axes.map((axis, k) => {
    const drawn = k === 0 ? chart._fullLayout.xaxis : chart._fullLayout.yaxis;
    const box = chart.getBoundingClientRect();
    const pixel = k === 0 ? event.clientX - box.left : event.clientY - box.top;
    return nearest(axis.values, drawn.p2d(pixel - drawn._offset));
  });
  chart.on("plotly_hover", (event) => held || show(under(event)));
  chart.on("plotly_click", (event) => {
    held = !held;
    show(under(event));
  });
  for (const slider of sliders) {
    slider.addEventListener("input", () => show(sliders.map((one) => Number(one.value))));
  }
  show(known.start);
}

function written(value) {
  return Number(value.toPrecision(4)).toString();
}
