// Sparklines, in the geometry of spark.go.

import { make, set } from "./dom.js";
import { number } from "./format.js";

const width = 120, height = 28, points = 120;

export function buildSpark() {
  return make("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" },
    make("polygon"), make("polyline"));
}

export function fillSpark(svg, past, active) {
  const values = [...past, active];
  if (values.length === 1) values.push(active);
  const most = Math.max(1, ...values), step = width / points;
  const line = values.map((v, i) => {
    const x = width - step * (values.length - 1 - i);
    return `${+x.toFixed(2)},${+((height - 4) * (1 - v / most) + 2).toFixed(2)}`;
  });
  const left = +(width - step * (values.length - 1)).toFixed(2);
  set(svg.children[0], "points", `${left},${height} ${line.join(" ")} ${width},${height}`);
  set(svg.children[1], "points", line.join(" "));
  const low = Math.min(...values), high = Math.max(...values);
  set(svg, "aria-label", low === high
    ? `${number(active)} now, the same in the last ten minutes`
    : `${number(active)} now, between ${number(low)} and ${number(high)} in the last ten minutes`);
}
