// Time series of one device with uPlot. The numbers are also in the text above each chart.
"use strict";

const charts = new Map();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function clock(at, step_s) {
  const shown = { hour: "2-digit", minute: "2-digit", second: step_s < 60 ? "2-digit" : undefined, hourCycle: "h23" };
  return new Date(at * 1000).toLocaleTimeString([], shown);
}

function options(box, series) {
  const tones = box.dataset.tone === "ok" ? ["ok"] : ["accent", "off"];
  const axis = {
    stroke: colour("muted"), font: "12px system-ui", ticks: { show: false },
    grid: { stroke: colour("line"), width: 1 },
  };
  return {
    width: box.clientWidth, height: box.clientHeight, padding: [8, 30, 0, 0],
    cursor: { y: false }, legend: { show: false },
    scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.15 : 1] } },
    axes: [{ ...axis, size: 28, space: 70, values: (_, ticks, __, ___, step) => ticks.map((at) => clock(at, step)) }, { ...axis, size: 52, values: (_, ticks) => ticks.map((v) => `${v} ${series.unit}`) }],
    series: [{}, ...series.names.map((name, i) => ({
      label: name, stroke: colour(tones[i]), width: i ? 1.2 : 2, dash: i ? [4, 3] : [],
      points: { show: series.data[0].length < 2 },
    }))],
  };
}

function draw(box) {
  if (charts.get(box)?.text === box.dataset.series) return;
  const series = JSON.parse(box.dataset.series);
  const old = charts.get(box);
  if (old) {
    old.plot.setData(series.data);
    old.text = box.dataset.series;
    return;
  }
  const plot = new uPlot(options(box, series), series.data, box);
  charts.set(box, { plot, text: box.dataset.series });
  resized.observe(box);
}

function drawAll() {
  for (const box of document.querySelectorAll(".chart[data-series]")) draw(box);
}

const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    charts.get(target)?.plot.setSize({ width: target.clientWidth, height: target.clientHeight });
  }
});

drawAll();
document.addEventListener("htmx:after:swap", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const { plot } of charts.values()) plot.destroy();
  charts.clear();
  drawAll();
});
