"use strict";
// Draws the panels of a page; what they hold is described in figures.py.
const PALETTES = {
  light: ["#2563c9", "#d9590f", "#0d8a63", "#9147c2", "#b07d08", "#c93a6e", "#0e8fa8"],
  dark: ["#6ea1ff", "#ff9457", "#4cc79b", "#c08cf0", "#e0b64a", "#f283aa", "#4fc3d9"],
};
const NEUTRAL = { light: "#6b7280", dark: "#a3acb9" };
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const DODGE = 0.055; // between series at one name of an axis
const darkness = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
root.dataset.errors = 0;
addEventListener("error", () => { root.dataset.errors = Number(root.dataset.errors) + 1; });

const theme = () => (darkness.matches ? "dark" : "light");
const round = (series) => Math.floor(Math.max(series.color, 0) / PALETTES.light.length) % SYMBOLS.length;
function color(series) {
  const palette = PALETTES[theme()];
  return series.color < 0 ? NEUTRAL[theme()] : palette[series.color % palette.length];
}
function faded(hex, alpha) {
  const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${parts.join(",")},${alpha})`;
}

function errorBars(series, values) {
  if (!series.low || series.small) return undefined;
  return {
    type: "data", symmetric: false, thickness: 2, width: 0,
    array: values.map((value, n) => series.high[n] - value),
    arrayminus: values.map((value, n) => value - series.low[n]),
  };
}

function hover(series, values) {
  return values.map((value, n) => {
    const interval = series.low ? ` [${show(series.low[n])}, ${show(series.high[n])}]` : "";
    return (series.text ? `${series.text[n]}<br>` : "") + show(value) + interval;
  });
}
const show = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(4))));

function trace(figure, series, names, number, count) {
  const horizontal = figure.kind === "dots";
  const values = horizontal ? series.x : series.y;
  const marker = { color: color(series), symbol: SYMBOLS[round(series)], size: series.small ? 5 : 9 };
  const drawn = {
    type: "scatter", name: series.name, marker, opacity: series.small ? 0.45 : 1, showlegend: false,
    x: series.x, y: series.y, mode: "markers", customdata: hover(series, values), cliponaxis: false,
    hovertemplate: (horizontal ? "%{y}" : "%{x}") + `<br>%{customdata}<extra>${escape(series.name)}</extra>`,
  };
  if (horizontal) {
    drawn.error_x = errorBars(series, values);
  } else if (figure.kind === "lines") {
    drawn.mode = series.x.length > 25 ? "lines" : "lines+markers";
    marker.size = 7;
    drawn.line = { color: marker.color, width: 2, dash: DASHES[round(series)] };
    drawn.error_y = errorBars(series, values);
    if (drawn.error_y) drawn.error_y.thickness = 1.5;
    if (names) {
      if (names.length < 3) drawn.mode = "markers";
      drawn.text = series.x;
      drawn.x = series.x.map((name) => names.indexOf(name) + (number - (count - 1) / 2) * DODGE);
      drawn.hovertemplate = `%{text}<br>%{customdata}<extra>${escape(series.name)}</extra>`;
    }
  } else if (figure.kind === "areas") {
    drawn.mode = "lines";
    drawn.line = { color: marker.color, width: 2 };
    drawn.fill = "tozeroy";
    drawn.fillcolor = faded(marker.color, 0.16);
  } else {
    marker.size = 11;
    drawn.error_y = errorBars(series, values);
    if (drawn.error_y) drawn.error_y.thickness = 1.5;
    drawn.hovertemplate = `%{customdata}<extra>${escape(series.name)}</extra>`;
  }
  return drawn;
}
const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

function layout(figure, names, width) {
  const style = getComputedStyle(root);
  const [ink, muted, line] = ["--ink", "--muted", "--line"].map((name) => style.getPropertyValue(name).trim());
  const axis = {
    gridcolor: line, zeroline: false, linecolor: line, tickcolor: line, tickfont: { color: muted }, automargin: true,
    fixedrange: true, nticks: width < 480 ? 5 : 8,
  };
  const title = (text) => ({ text, font: { color: muted, size: 12 }, standoff: 8 });
  const made = {
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, hovermode: "closest",
    hoverlabel: { font: { family: "inherit", size: 12 } }, margin: { l: 8, r: 16, t: 10, b: 8 }, width, height: 320,
    xaxis: { ...axis, title: title(figure.x_label) }, yaxis: { ...axis, title: title(figure.y_label) },
  };
  if (figure.kind === "dots") {
    const rows = new Set(figure.series.flatMap((series) => series.y)).size;
    made.height = Math.max(130, 70 + rows * (width < 480 ? 38 : 30)); // less has no room for the axis and its title
    const short = (name) => (width < 480 ? escape(name).replace(/\+/g, "<br>+") : escape(name));
    const all = [...new Set(figure.series.flatMap((series) => series.y))];
    Object.assign(made.yaxis, {
      autorange: "reversed", showgrid: false, tickfont: { color: ink, size: 12 }, nticks: 0, type: "category",
      tickvals: all, ticktext: all.map(short),
    });
    if (figure.zero_line) Object.assign(made.xaxis, { zeroline: true, zerolinecolor: muted, zerolinewidth: 1.5 });
  } else {
    made.xaxis.showgrid = false;
    if (names) {
      Object.assign(made.xaxis, { tickvals: names.map((_, n) => n), ticktext: names.map(escape) });
      made.xaxis.range = [-0.4, names.length - 0.6];
    }
    const x = figure.kind === "lines" && !names ? figure.series.flatMap((series) => series.x) : [];
    if (x.length && x.every(Number.isInteger)) made.xaxis.dtick = step(Math.max(...x) - Math.min(...x));
    if (figure.kind === "areas") made.yaxis.rangemode = "tozero";
  }
  made.modebar = { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: muted };
  if (figure.log_x) Object.assign(made.xaxis, logAxis(figure.series.flatMap((series) => series.x)));
  return made;
}

// Between ticks of whole numbers: 1, 2 or 5 times a power of ten, at most eight of them.
function step(range) {
  const least = Math.max(range / 8, 1), power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].find((digit) => digit * power >= least) * power;
}

function logAxis(values) {
  const low = Math.min(...values) / 1.8, high = Math.max(...values) * 1.8, tickvals = [];
  const digits = high / low < 12 ? [1, 1.5, 2, 3, 5, 7] : [1, 2, 5];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    tickvals.push(...digits.map((digit) => digit * 10 ** power));
  }
  const ticktext = tickvals.map((value) => Number(value.toPrecision(2)).toLocaleString("en"));
  return { type: "log", range: [Math.log10(low), Math.log10(high)], tickvals, ticktext, nticks: 0 };
}

const OPTIONS = {
  displaylogo: false,
  modeBarButtons: [["toImage"]], toImageButtonOptions: { format: "svg" },
};

class Card {
  constructor(element, panel) {
    this.panel = panel;
    this.chart = element.querySelector(".chart");
    this.keys = element.querySelector(".keys");
    this.choice = element.querySelector("select");
    this.shown = {};
    if (this.choice) this.choice.addEventListener("change", () => this.draw());
  }

  get figure() {
    return this.panel.figures[this.choice ? this.choice.selectedIndex : 0];
  }

  isShown(series) {
    return this.shown[series.name] ?? !series.hidden;
  }

  draw() {
    const figure = this.figure, width = this.chart.clientWidth;
    const visible = figure.series.filter((series) => this.isShown(series));
    const named = figure.kind === "lines" && figure.series.some((series) => typeof series.x[0] === "string");
    const names = named ? [...new Set(figure.series.flatMap((series) => series.x))] : null;
    const traces = visible.map((series, n) => trace(figure, series, names, n, visible.length));
    this.drawKeys(figure);
    OPTIONS.toImageButtonOptions.filename = `${this.panel.title} ${figure.name}`;
    return Plotly.react(this.chart, traces, layout(figure, names, width), { ...OPTIONS });
  }

  drawKeys(figure) {
    const named = [...new Map(figure.series.map((series) => [series.name, series])).values()];
    const said = named.length < 2 || named.every((series) => figure.kind === "dots" && series.y[0] === series.name);
    this.keys.replaceChildren(...(said ? [] : named).map((series) => {
      const key = document.createElement("button"), dot = document.createElement("i");
      key.type = "button";
      key.setAttribute("aria-pressed", this.isShown(series));
      dot.style.background = color(series);
      key.append(dot, series.name);
      key.addEventListener("click", () => {
        this.shown[series.name] = !this.isShown(series);
        this.draw();
      });
      return key;
    }));
  }
}

const panels = JSON.parse(document.getElementById("panels").textContent);
const cards = [...document.querySelectorAll("[data-panel]")].map((each) => new Card(each, panels[each.dataset.panel]));
const drawAll = () => Promise.all(cards.map((card) => card.draw()));
drawAll().then(() => { root.dataset.drawn = cards.length; });
darkness.addEventListener("change", drawAll);
let lastWidth = document.body.clientWidth;
new ResizeObserver(() => { // heights and labels depend on the width too
  if (document.body.clientWidth === lastWidth) return;
  lastWidth = document.body.clientWidth;
  drawAll();
}).observe(document.body);
