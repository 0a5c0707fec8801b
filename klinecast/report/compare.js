// The comparison: one line for each result, in its colour, from the fifth on dashed.
(() => {
  "use strict";
  const { data, color, number, percent, shortPercent, chart } = page;
  const lines = () => data.labels.map((label, i) => ({ label, stroke: color(`--c${i}`), width: 1.75, dash: i >= 4 ? [7, 4] : undefined }));
  const factor = (v) => (v == null ? "–" : v.toFixed(3));
  chart("growth", data.growth, lines, factor, number);
  chart("drawdowns", data.drawdowns, lines, percent, shortPercent, { scales: { y: { range: (_, low) => [Math.min(low, -0.01) * 1.08, 0] } } });
  page.start();
})();
