"use strict";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Figures come without a theme, so that one page serves light and dark screens.
function themed(layout) {
  const [text, soft, line, surface] = ["--text", "--soft", "--line", "--surface"].map(css);
  const axis = {
    gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, automargin: true,
    tickfont: { color: soft, size: 12 },
  };
  const theme = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
    font: { family: "system-ui, sans-serif", size: 13, color: text },
    hoverlabel: { bgcolor: surface, bordercolor: line, align: "left", font: { color: text, size: 12 } },
  };
  const result = { ...theme, ...layout };
  for (const key of Object.keys(layout)) {
    if (!/^[xy]axis\d*$/.test(key)) continue;
    result[key] = { ...axis, ...layout[key] };
    if (result[key].title) result[key].title = { ...result[key].title, font: { color: soft, size: 13 } };
  }
  return result;
}

const figures = new Map();

function draw(id, { data, layout }) {
  Plotly.react(id, data, themed(layout), { responsive: true, displayModeBar: false });
}

function showGroup(data, group) {
  for (const trace of data) trace.visible = trace.meta === group;
}

for (const source of document.querySelectorAll("script.plot-data")) {
  const id = source.dataset.for;
  const figure = JSON.parse(source.textContent);
  figures.set(id, figure);
  draw(id, figure);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const [id, figure] of figures) draw(id, figure);
});

for (const select of document.querySelectorAll("select[data-pick]")) {
  const id = `plot-${select.dataset.pick}`;
  const figure = figures.get(id);
  for (const group of new Set(figure.data.map((trace) => trace.meta))) {
    select.add(new Option(group, group));
  }
  select.addEventListener("change", () => {
    showGroup(figure.data, select.value);
    draw(id, figure);
  });
}

for (const compare of document.querySelectorAll(".compare")) {
  const stack = compare.querySelector(".stack");
  const strip = compare.parentElement.querySelector(".strip");
  stack.querySelector("input").addEventListener("input", (event) => {
    stack.style.setProperty("--cut", `${event.target.value}%`);
  });
  for (const select of compare.querySelectorAll("select[data-side]")) {
    select.addEventListener("change", () => {
      const layer = stack.querySelector(`[data-layer="${select.dataset.side}"]`);
      layer.src = strip.querySelector(`[data-version="${select.value}"]`).src;
      layer.alt = select.value;
    });
  }
}
